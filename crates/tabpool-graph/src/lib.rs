//! The graph IR of tabpool: operators, validation, passes, static programs.
