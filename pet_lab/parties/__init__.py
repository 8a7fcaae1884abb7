"""What processes of different parties need to speak safely, whatever the protocol.

    errors        what can go wrong, one sentence each
    certificates  who a party is: credentials, TLS 1.3 contexts, a test authority
    channel       framed, typed, timed messages to one authenticated peer (asyncio)
    blocking      the same for synchronous code, and a pair in memory
    launch        party processes: start, wait until ready, stop; none outlives its parent
    apart         native parsers of strangers' bytes, in a child process
    log           Ed25519 signatures and a hash-chained signed log

Nothing here is imported at once: a launched process loads only what it uses.
"""
