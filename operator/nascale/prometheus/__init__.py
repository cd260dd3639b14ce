"""PromQL queries in, the operator's own exporter out."""
