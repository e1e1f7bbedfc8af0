//! Find, start, profile, watch and end real browsers.
