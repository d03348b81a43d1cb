"""Commands that move images between storage and `lib`."""
