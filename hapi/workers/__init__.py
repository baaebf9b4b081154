"""The processes around the broker: nursery, reaper, hub connector, session supervisors. They meet only in `wire`."""

from hapi import lean

lean.import_msgspec()  # before any module here does
