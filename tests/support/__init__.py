"""What the tests share: virtual time, networks in memory, expectations about the machine they run on."""
