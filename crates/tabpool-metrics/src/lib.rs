//! What tabpool measures, kept in DuckDB: events, store, queries, reports.
