// Kernels by name, their arguments checked and bound, their blocks run one after another.
#pragma once

#include "fibers.hpp"

#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <type_traits>
#include <utility>

#ifndef __SANITIZE_ADDRESS__
extern "C" __attribute__((visibility("hidden"))) char emulated_shared_start[], emulated_shared_end[];  // shared_memory.ld
#endif

namespace emulator {

// An argument as the launcher hands it in.
struct Argument {
    unsigned long long bits;
    int bytes;
    char kind;  // 'p' pointer, 'i' or 'u' integer, 'f' floating
};

struct Kernel {
    const char* name;
    unsigned most_threads;  // what its __launch_bounds__ say
    bool (*fits)(const Argument*, int count);
    void (*body)();
};

static const Argument* arguments;  // of the kernel that runs

template <class P>
bool suits(const Argument& argument, int place) {
    const char kind = std::is_pointer_v<P> ? 'p' : std::is_floating_point_v<P> ? 'f' : 'i';
    if ((argument.kind == 'u' ? 'i' : argument.kind) == kind && argument.bytes == sizeof(P)) return true;
    const auto name = [](char of) { return of == 'p' ? "a pointer" : of == 'f' ? "a float" : "an integer"; };
    snprintf(block.message, sizeof block.message, "argument %d must be %s of %zu bytes, got %s of %d", place, name(kind), sizeof(P),
             name(argument.kind), argument.bytes);
    return false;
}

template <class P>
P value(const Argument& argument) {
    P out;
    memcpy(&out, &argument.bits, sizeof out);
    return out;
}

template <auto kernel>
struct Bound;
template <class... P, void (*kernel)(P...)>
struct Bound<kernel> {
    static bool fits(const Argument* given, int count) {
        if (count == sizeof...(P)) return fits(given, std::index_sequence_for<P...>());
        snprintf(block.message, sizeof block.message, "must have %zu arguments, got %d", sizeof...(P), count);
        return false;
    }
    static void body() { body(std::index_sequence_for<P...>()); }

   private:
    template <size_t... place>
    static bool fits(const Argument* given, std::index_sequence<place...>) {
        return (suits<P>(given[place], (int)place) && ...);
    }
    template <size_t... place>
    static void body(std::index_sequence<place...>) {
        kernel(value<P>(arguments[place])...);
    }
};

constexpr unsigned first_of(unsigned threads, unsigned = 0, unsigned = 0) { return threads; }

// Shared memory holds what other blocks have left: here all bits set, which is NaN, so that reading it before writing it shows.
inline void poison_shared_memory() {
#ifndef __SANITIZE_ADDRESS__
    memset(emulated_shared_start, 0xFF, (size_t)(emulated_shared_end - emulated_shared_start));
    asm volatile("" ::: "memory");
#endif
}

inline bool run_blocks() {
    const unsigned long long blocks = (unsigned long long)block.grid.x * block.grid.y * block.grid.z;
    for (unsigned long long turn = 0; turn < blocks; ++turn) {
        const unsigned long long place = block.reversed ? blocks - 1 - turn : turn, row = place / block.grid.x;
        block.index = {(unsigned)(place % block.grid.x), (unsigned)(row % block.grid.y), (unsigned)(row / block.grid.y)};
        poison_shared_memory();
        races::begin_block();
        if (!run_block()) return false;
    }
    return true;
}

#ifdef __SANITIZE_ADDRESS__

inline bool run_guarded() { return run_blocks(); }  // the sanitizers' reports say more

#else

static sigjmp_buf rescue;
constexpr int CAUGHT[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};

// Run all blocks; a crash becomes a message that names the thread.
inline bool run_guarded() {
    static char* const stack = new char[64 * 1024];
    static struct sigaction before[sizeof CAUGHT / sizeof *CAUGHT];
    static stack_t stack_before;
    const stack_t own = {stack, 0, 64 * 1024};
    sigaltstack(&own, &stack_before);
    struct sigaction action = {};
    action.sa_handler = [](int signal) { siglongjmp(rescue, signal); };
    action.sa_flags = SA_ONSTACK;
    for (size_t i = 0; i < sizeof CAUGHT / sizeof *CAUGHT; ++i) sigaction(CAUGHT[i], &action, &before[i]);
    const int signal = sigsetjmp(rescue, 1);
    const bool fine = signal == 0 && run_blocks();
    for (size_t i = 0; i < sizeof CAUGHT / sizeof *CAUGHT; ++i) sigaction(CAUGHT[i], &before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
    if (signal)
        snprintf(block.message, sizeof block.message, "%s in thread (%u, %u, %u) of block (%u, %u, %u)", strsignal(signal), block.thread.x,
                 block.thread.y, block.thread.z, block.index.x, block.index.y, block.index.z);
    return fine;
}

#endif

enum Outcome { FINE, REFUSED, FAILED };

inline int launch(const Kernel& kernel, const unsigned* grid, const unsigned* size, const Argument* given, int count, bool reversed) {
    races::begin_launch(size[0] * size[1] * size[2]);
    block.grid = {grid[0], grid[1], grid[2]};
    block.size = {size[0], size[1], size[2]};
    block.threads = size[0] * size[1] * size[2];
    block.reversed = reversed;
    block.body = kernel.body;
    arguments = given;
    if (!kernel.fits(given, count)) return REFUSED;
    if (block.threads > kernel.most_threads) {
        snprintf(block.message, sizeof block.message, "must have at most %u threads a block, got %u", kernel.most_threads, block.threads);
        return REFUSED;
    }
    prepare(block.threads);
    return run_guarded() ? FINE : FAILED;
}

}  // namespace emulator

inline void __trap() { abort(); }

// Written after the kernels: the way in from Python. `kernels` ends with an entry without a name.
#define EMULATED_KERNELS(kernels)                                                                                                        \
    extern "C" __attribute__((visibility("default"))) const char* emulator_message() { return emulator::block.message; }                 \
    extern "C" __attribute__((visibility("default"))) int emulator_launch(                                                               \
        const char* name, const unsigned* grid, const unsigned* size, const emulator::Argument* given, int count, int reversed) {        \
        for (const emulator::Kernel* kernel = kernels; kernel->name; ++kernel)                                                           \
            if (!strcmp(kernel->name, name)) return emulator::launch(*kernel, grid, size, given, count, reversed);                       \
        snprintf(emulator::block.message, sizeof emulator::block.message, "there is no such kernel");                                    \
        return emulator::REFUSED;                                                                                                        \
    }
