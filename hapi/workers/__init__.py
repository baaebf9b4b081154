"""The processes around the broker: nursery, reaper, hub connector, session supervisors. They meet only in `wire`."""
