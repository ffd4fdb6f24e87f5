"""The commands `get`, `put`, `head`, `status`, `verify` and `completion` of `stor`, and `stor-client`."""
