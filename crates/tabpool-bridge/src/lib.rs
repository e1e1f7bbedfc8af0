//! The host's side of the WebSocket link: joins, sessions, heartbeats.
