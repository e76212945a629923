"""Trials on a booted systemd: Debian trees under systemd-nspawn, dist/stream-daemon in them."""
