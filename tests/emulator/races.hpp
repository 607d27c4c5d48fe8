// What the emulator tells the race detector (races.cpp) of the threads that run; nothing where the kernels are not watched.
#pragma once

#include <cstddef>

#ifdef WATCH_RACES

#define UNWATCHED __attribute__((no_sanitize("thread")))

namespace races {
void begin_launch(unsigned threads);                               // so many a block
void begin_block();
void pass_barrier(const char* file, int line);                     // all threads of the block have
void go_on(const void* stack, size_t bytes);                       // the next thread of the block, from its start or from the barrier
void stop();                                                       // it has ended, or waits
void touch_atomically(const void* at, size_t bytes, const void* code);  // `code`: where it returns to
}  // namespace races

#else

#define UNWATCHED

namespace races {
inline void begin_launch(unsigned) {}
inline void begin_block() {}
inline void pass_barrier(const char*, int) {}
inline void go_on(const void*, size_t) {}
inline void stop() {}
inline void touch_atomically(const void*, size_t, const void*) {}
}  // namespace races

#endif
