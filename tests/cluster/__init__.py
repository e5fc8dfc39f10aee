"""Training on several hosts: network namespaces with an address, a PID 1, and a /dev/shm of 64 MB each."""
