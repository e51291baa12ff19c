"""Block-wise transfer, sans-IO: datagrams and time in, datagrams and events out (RFC 7252, RFC 7959)."""
