"""A stand-in for `systemctl` that records its calls and plays the states of one service."""

from __future__ import annotations

FAKE = r"""#!/bin/sh
echo "$@" >> "$FAKE_LOG"
[ "$1" = --user ] && shift
case "$1" in
start) echo active > "$FAKE_STATE" ;;
stop) echo inactive > "$FAKE_STATE" ;;
enable) echo enabled > "$FAKE_STATE.enabled" ;;
disable) rm -f "$FAKE_STATE.enabled" ;;
show) state=$(cat "$FAKE_STATE" 2>/dev/null || echo inactive)
  echo "ActiveState=$state"; echo "SubState=running"; echo "MainPID=4711"
  echo "UnitFileState=$(cat "$FAKE_STATE.enabled" 2>/dev/null)"; echo "Result=success" ;;
esac
if [ -n "$FAKE_REFUSES" ]; then echo "Failed to $1: Access denied" >&2; exit 4; fi
exit 0
"""
