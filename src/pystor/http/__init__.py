"""HTTP: messages as values, rules as tables, one place that sends."""
