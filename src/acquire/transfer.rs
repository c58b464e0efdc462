//! Resume as a pure state machine.
