// Since glibc 2.32 a variable tells libstdc++ that a process has one thread only, and reference counts then need no atomics.
// Here it always says "there may be more": older versions do not have it, and torch starts threads anyway.
extern "C" {
extern __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
}
