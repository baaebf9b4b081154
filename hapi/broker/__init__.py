"""The broker: owns the lock, the sockets, the routing table and the lives of the workers."""

from hapi import lean

lean.import_msgspec()  # before any module here does
lean.import_hashlib()
