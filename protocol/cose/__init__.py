"""COSE, as far as signed manifests need it: keys, algorithms, COSE_Sign1 (RFC 9052, RFC 9053, RFC 9864)."""
