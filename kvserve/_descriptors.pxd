# What other extensions use of _descriptors.pyx.
cdef unsigned long long forks  # how many lie behind this process; raised in pthread_atfork
