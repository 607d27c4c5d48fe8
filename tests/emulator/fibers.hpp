// The threads of a block as fibers: stacks of their own, taking turns on one core. A thread runs until a barrier or its end.
#pragma once

#include "cuda_on_cpu.hpp"

#include <cstdio>
#include <sys/mman.h>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emulator {

constexpr size_t STACK = 256 * 1024, PAGE = 64 * 1024;  // a page of any size fits: it lies below a stack and may not be touched

#ifdef __x86_64__

// Keeps what a function must keep on the stack that is left, and takes it from the stack that is entered: some ten instructions, where
// swapcontext asks the operating system twice.
struct Context {
    void* stack_pointer;
};
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(Context* left, const Context* entered);
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, .-emulator_switch
)");

inline void start_at(Context& context, char* stack, size_t bytes, void (*work)()) {
    void** top = reinterpret_cast<void**>(stack + bytes);
    top[-2] = reinterpret_cast<void*>(work);  // where `ret` goes; the six slots below are the registers, the one above keeps the alignment
    context.stack_pointer = top - 8;
}

#else

struct Context {
    ucontext_t at;
};
inline void emulator_switch(Context* left, const Context* entered) { swapcontext(&left->at, &entered->at); }
inline void start_at(Context& context, char* stack, size_t bytes, void (*work)()) {
    getcontext(&context.at);
    context.at.uc_stack.ss_sp = stack;
    context.at.uc_stack.ss_size = bytes;
    context.at.uc_link = nullptr;
    makecontext(&context.at, work, 0);
}

#endif

struct Fiber {
    Context context;
    char* stack;
    size_t bytes;
    uint3 thread;      // the one that runs on it
    const char* file;  // of the barrier it waits at
    int line;          // 0: it waits at none
};

// The block that runs. Its first threads share a fiber for as long as none stops at a barrier.
struct Block {
    uint3 index, thread;
    dim3 size, grid;
    unsigned threads, next;  // how many it has, how many have begun
    bool reversed;
    void (*body)();           // the kernel with its arguments
    unsigned votes, counted;  // predicates that held at this barrier, at the last one
    Fiber* running;
    Context home;
    std::vector<Fiber> fibers;
    char message[512];
};
static Block block;

// Tell the address sanitizer which stack comes next.
inline void before_switch([[maybe_unused]] const void* stack, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(nullptr, stack, bytes);
#endif
}
inline void after_switch([[maybe_unused]] const void** left, [[maybe_unused]] size_t* bytes) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, left, bytes);
#endif
}

static const void* home_stack;
static size_t home_bytes;

inline void enter(Fiber& fiber) {
    block.running = &fiber;
    block.thread = fiber.thread;
    before_switch(fiber.stack, fiber.bytes);
    emulator_switch(&block.home, &fiber.context);
    after_switch(nullptr, nullptr);
}

inline void leave(Fiber& fiber) {
    before_switch(home_stack, home_bytes);
    emulator_switch(&fiber.context, &block.home);
    after_switch(&home_stack, &home_bytes);
}

// What a fiber does: the next thread, and the next, until none is left; then wait for the next block.
static void work() {
    after_switch(&home_stack, &home_bytes);
    Fiber& fiber = *block.running;
    for (;;) {
        while (block.next < block.threads) {
            const unsigned turn = block.next++, place = block.reversed ? block.threads - 1 - turn : turn;
            fiber.thread = {place % block.size.x, place / block.size.x % block.size.y, place / (block.size.x * block.size.y)};
            block.thread = fiber.thread;
            races::go_on(fiber.stack, fiber.bytes);
            block.body();
            races::stop();
        }
        leave(fiber);
    }
}

// Stop at a barrier; true votes are counted over the block.
inline unsigned wait(bool vote, const char* file, int line) {
    races::stop();
    Fiber& fiber = *block.running;
    fiber.file = file;
    fiber.line = line;
    block.votes += vote;
    asm volatile("" ::: "memory");  // others write to shared memory meanwhile
    leave(fiber);
    asm volatile("" ::: "memory");
    races::go_on(fiber.stack, fiber.bytes);
    return block.counted;
}

// Make fibers for so many threads and put them at their start, whatever a launch that failed has left on them.
inline void prepare(unsigned threads) {
    while (block.fibers.size() < threads) {
        constexpr int KIND = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        char* memory = static_cast<char*>(mmap(nullptr, PAGE + STACK, PROT_READ | PROT_WRITE, KIND, -1, 0));
        if (memory == MAP_FAILED) abort();
        mprotect(memory, PAGE, PROT_NONE);
        const size_t shift = block.fibers.size() % 32 * 128;  // else all stacks would fight for the same lines of the cache
        block.fibers.push_back({{}, memory + PAGE, STACK - shift, {}, nullptr, 0});
    }
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = block.fibers[i];
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(fiber.stack, fiber.bytes);
#endif
        start_at(fiber.context, fiber.stack, fiber.bytes, work);
    }
}

// Enter the first fibers once each; how many stop at a barrier.
inline unsigned advance(unsigned fibers) {
    unsigned waiting = 0;
    for (unsigned i = 0; i < fibers; ++i) {
        block.fibers[i].line = 0;
        enter(block.fibers[i]);
        waiting += block.fibers[i].line != 0;
    }
    return waiting;
}

// Do all threads wait at one and the same barrier? If not, say so.
inline bool together(unsigned waiting) {
    const Fiber &first = block.fibers[0], *stray = nullptr;
    for (unsigned i = 0; i < block.threads && !stray; ++i)
        if (block.fibers[i].line != first.line || block.fibers[i].file != first.file) stray = &block.fibers[i];
    if (!stray) return true;
    const Fiber &there = first.line ? first : *stray, &other = first.line ? *stray : first;
    const int length = snprintf(
        block.message, sizeof block.message, "divergent barrier in block (%u, %u, %u): thread (%u, %u, %u) waits at %s:%d, ", block.index.x,
        block.index.y, block.index.z, there.thread.x, there.thread.y, there.thread.z, there.file, there.line);
    if (waiting < block.threads)
        snprintf(block.message + length, sizeof block.message - length, "but %u of %u threads have ended", block.threads - waiting,
                 block.threads);
    else
        snprintf(block.message + length, sizeof block.message - length, "but thread (%u, %u, %u) at %s:%d", other.thread.x, other.thread.y,
                 other.thread.z, other.file, other.line);
    return false;
}

// Run all threads of a block; false where its message says what went wrong.
inline bool run_block() {
    block.next = block.votes = 0;
    unsigned waiting = 0;
    while (block.next < block.threads) {
        Fiber& fiber = block.fibers[waiting];
        fiber.line = 0;
        enter(fiber);
        waiting += fiber.line != 0;
    }
    for (unsigned i = waiting; i < block.threads; ++i) block.fibers[i].line = 0;
    while (waiting) {
        if (!together(waiting)) return false;
        races::pass_barrier(block.fibers[0].file, block.fibers[0].line);
        block.counted = block.votes;
        block.votes = 0;
        waiting = advance(block.threads);
    }
    return true;
}

}  // namespace emulator

static const uint3 &threadIdx = emulator::block.thread, &blockIdx = emulator::block.index;
static const dim3 &blockDim = emulator::block.size, &gridDim = emulator::block.grid;

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { emulator::wait(false, file, line); }
inline int __syncthreads_count(int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return (int)emulator::wait(vote, file, line);
}
inline int __syncthreads_or(int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return emulator::wait(vote, file, line) > 0;
}
inline int __syncthreads_and(int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return emulator::wait(vote, file, line) == emulator::block.threads;
}
