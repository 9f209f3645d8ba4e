"""Whether somebody gets in, out or through who should not; `make security` plays all of it (docs/security.md)."""
