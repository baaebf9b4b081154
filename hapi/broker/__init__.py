"""The broker: owns the lock, the sockets, the routing table and the lives of the workers."""
