// Finds every two accesses that nothing orders: to the same byte, by different threads, one of them a write, not both atomic, and either
// in the same block with no barrier between them or, in global memory, in different blocks. That both write the same excuses nothing.
//
// g++ -fsanitize=thread calls a function before each access to memory: those at the end of this file, in place of the thread sanitizer's.
// Threads take turns, a thread one between two barriers. Turns are counted through a launch, so a turn's number tells which thread it was,
// of which block, between which barriers. For each byte and kind of access three turns are kept: the first, the last, and the last before
// it of another thread. They stand for all others, as turns are in order: was another block there, was another thread of this block there
// since the barrier? So of the accesses that were made none is missed, and none is told wrongly.
//
// Volatile accesses to global memory count as atomic, as PTX makes relaxed ones of them. Nothing else orders blocks: a flag behind a fence
// is not understood. Stacks, and with them local arrays, are left out.
//
// Where two such accesses are kept apart by one barrier alone, or by several passes of it, that barrier is needed; others may not be.
#include "races.hpp"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define OWN extern "C" __attribute__((visibility("hidden"))) char  // this library's: others have an `_end` too

OWN emulated_shared_start[], emulated_shared_end[];  // shared_memory.ld
OWN __ehdr_start[], _end[];                          // of the whole library

namespace {

enum Kind { READ = 0, WRITE = 1, ATOMIC = 2, KINDS = 4 };  // bits: an atomic operation is both of the latter

struct Access {
    uint32_t turn;  // 0: none
    uint32_t code;  // where it returns to, from the library's start
};

struct History {
    Access first, before, last;
};

// Some memory, in cells of 2^shift bytes: no access took less.
struct Page {
    static constexpr unsigned BITS = 10;
    unsigned shift;
    std::vector<History> of[KINDS];  // a cell each; empty where there was no such access

    void split(unsigned finer) {
        for (std::vector<History>& cells : of) {
            std::vector<History> parts(cells.empty() ? 0 : 1u << (BITS - finer));
            for (size_t i = 0; i < parts.size(); ++i) parts[i] = cells[i >> (shift - finer)];
            cells = std::move(parts);
        }
        shift = finer;
    }
};

// As tests/emulator/races.py reads them.
struct Race {
    unsigned long long address;
    int shared;
    struct Side {
        int kind;
        unsigned code, block, thread;  // how many blocks had run, how many threads of this one
    } now, then;
};
struct Barrier {
    const char* file;
    int line, needed;
};

constexpr size_t MOST_RACES = 32;  // that are told of a launch

bool watching;
uintptr_t stack, stack_bytes;
unsigned threads;
uint32_t turn;                 // that goes on, or the last one
uint32_t before_block;         // the last turn before this block,
uint32_t before_epoch;         // before it passed its last barrier,
uint32_t before_only;          // before it passed that one and no other, again and again
Barrier* passed;               // that one
std::vector<uint32_t> blocks;  // `before_block` of each
std::vector<Race> races_found;
std::deque<Barrier> barriers;  // of all launches so far
std::unordered_map<uintptr_t, Page> pages;
std::pair<uintptr_t, Page*> recent[64];

bool between(const void* start, const void* end, uintptr_t address) { return address - (uintptr_t)start < (uintptr_t)end - (uintptr_t)start; }

bool is_shared(uintptr_t address) { return between(emulated_shared_start, emulated_shared_end, address); }

Page& page_of(uintptr_t address, unsigned shift) {
    const uintptr_t number = address >> Page::BITS;
    auto& [known, page] = recent[number % 64];
    if (!page || known != number) known = number, page = &pages.try_emplace(number, Page{shift, {}}).first->second;
    if (page->shift > shift) page->split(shift);
    return *page;
}

bool by_this_thread(uint32_t other) { return other > before_epoch ? other == turn : other > before_block && (turn - other) % threads == 0; }

Race::Side side(int kind, Access access) {
    const auto block = std::lower_bound(blocks.begin(), blocks.end(), access.turn) - 1;
    return {kind, access.code, (unsigned)(block - blocks.begin()), (access.turn - *block - 1) % threads};
}

void tell(uintptr_t address, int kind, Access now, int other_kind, Access then) {
    for (const Race& known : races_found)
        if (std::minmax(known.now.code, known.then.code) == std::minmax(now.code, then.code)) return;
    if (races_found.size() < MOST_RACES) races_found.push_back({address, is_shared(address), side(kind, now), side(other_kind, then)});
}

// Hold an access against an earlier one that it conflicts with where nothing orders them.
void compare(uintptr_t address, int kind, Access now, int other_kind, Access then) {
    if (then.turn > before_only) {
        if (by_this_thread(then.turn)) return;
        if (then.turn > before_epoch) tell(address, kind, now, other_kind, then);
        else passed->needed = true, before_only = before_epoch;
    } else if (then.turn && then.turn <= before_block && !is_shared(address)) {
        tell(address, kind, now, other_kind, then);
    }
}

void touch(Page& page, size_t cell, uintptr_t address, int kind, Access now) {
    History& own = page.of[kind][cell];
    if (own.last.turn == turn) return;  // all is known, as no other thread ran since
    for (int other = 0; other < KINDS; ++other) {
        if (page.of[other].empty() || !((kind | other) & WRITE) || (kind & other & ATOMIC)) continue;
        const History& history = page.of[other][cell];
        for (const Access& then : {history.first, history.before, history.last}) compare(address, kind, now, other, then);
    }
    if (own.last.turn && !by_this_thread(own.last.turn)) own.before = own.last;
    if (!own.first.turn) own.first = now;
    own.last = now;
}

void touch(uintptr_t address, size_t bytes, int kind, const void* code) {
    if (!watching || address - stack < stack_bytes || (!is_shared(address) && between(__ehdr_start, _end, address))) return;
    constexpr uintptr_t INSIDE = (1u << Page::BITS) - 1;
    const Access now = {turn, (uint32_t)((uintptr_t)code - (uintptr_t)__ehdr_start)};
    const unsigned shift = std::min(__builtin_ctzll(address | bytes), 4);
    for (const uintptr_t end = address + bytes; address < end;) {
        Page& page = page_of(address, shift);
        if (page.of[kind].empty()) page.of[kind].resize(1u << (Page::BITS - page.shift));
        for (const uintptr_t stop = std::min(end, (address | INSIDE) + 1); address < stop; address += 1u << page.shift)
            touch(page, (address & INSIDE) >> page.shift, address, kind, now);
    }
}

}  // namespace

namespace races {

void begin_launch(unsigned threads_of_block) {
    watching = false;
    threads = threads_of_block;
    turn = 0;
    blocks.clear();
    races_found.clear();
    pages.clear();
    std::fill(std::begin(recent), std::end(recent), std::pair<uintptr_t, Page*>());
}

void begin_block() {
    before_block = before_epoch = before_only = turn;
    passed = nullptr;
    blocks.push_back(turn);
}

void pass_barrier(const char* file, int line) {
    auto found = std::find_if(barriers.begin(), barriers.end(), [=](const Barrier& at) { return at.file == file && at.line == line; });
    if (found == barriers.end()) found = barriers.insert(found, {file, line, false});
    if (&*found != passed) before_only = before_epoch;
    passed = &*found;
    before_epoch = turn;
    if (passed->needed) before_only = before_epoch;  // no more is to be found out of it
}

void go_on(const void* of_thread, size_t bytes) {
    ++turn;
    stack = (uintptr_t)of_thread;
    stack_bytes = bytes;
    watching = true;
}

void stop() { watching = false; }

void touch_atomically(const void* at, size_t bytes, const void* code) { touch((uintptr_t)at, bytes, WRITE | ATOMIC, code); }

}  // namespace races

EXPORTED const Race* emulator_races(size_t* count) { return *count = races_found.size(), races_found.data(); }
EXPORTED const Barrier* emulator_barrier(size_t number) { return number < barriers.size() ? &barriers[number] : nullptr; }

// ---- what the compiler calls; what it calls and is not here does not link ---------------------------------------------------------------

#define ACCESS(name, bytes, kind) \
    extern "C" void __tsan_##name(const void* at) { touch((uintptr_t)at, bytes, kind, __builtin_return_address(0)); }
#define RANGE(name, kind) \
    extern "C" void __tsan_##name(const void* at, size_t bytes) { touch((uintptr_t)at, bytes, kind, __builtin_return_address(0)); }
#define RELAXED (is_shared((uintptr_t)at) ? READ : ATOMIC)
#define ACCESSES(bytes)                                    \
    ACCESS(read##bytes, bytes, READ)                       \
    ACCESS(write##bytes, bytes, WRITE)                     \
    ACCESS(volatile_read##bytes, bytes, READ | RELAXED)    \
    ACCESS(volatile_write##bytes, bytes, WRITE | RELAXED)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
RANGE(read_range, READ)
RANGE(write_range, WRITE)
extern "C" void __tsan_init() {}
