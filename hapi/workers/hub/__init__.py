"""The hub connector: one process that speaks for this machine and all its sessions to the hub.

    connector   the worker: the bus on one side, the machine and the sessions on the other
    machine     the machine at the hub      ── machine_rpc, browse     what the hub may ask of it
    session     one session at the hub      ── session_rpc, inbox, outbox
    keeper      keeps one connection up: prepare, open, wait, back off
    door, rest  the only ways out: Socket.IO (with `schema`, `incoming`) and HTTP
    translate, describe, params             pure: our words ⇄ the hub's

`connector.run_connector` is the entry; `context` holds what all parts share.
"""
