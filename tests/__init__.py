"""The tests of Stor: every name is a claim."""

import pytest

# What the tests share asserts as well, and shall tell as much when it fails.
pytest.register_assert_rewrite("tests.support", "tests.contract")
