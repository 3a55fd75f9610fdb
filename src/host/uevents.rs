//! uevents
