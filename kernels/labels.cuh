// Labels of any integer type, read and written one at a time. `kind`: log2 of the bytes, plus 4 where the type is signed.
#pragma once

__device__ __forceinline__ long long read_label(const void* label, long long at, int kind) {
    switch (kind) {
        case 0: return ((const unsigned char*)label)[at];
        case 1: return ((const unsigned short*)label)[at];
        case 2: return ((const unsigned*)label)[at];
        case 3: return (long long)((const unsigned long long*)label)[at];
        case 4: return ((const signed char*)label)[at];
        case 5: return ((const short*)label)[at];
        case 6: return ((const int*)label)[at];
        default: return ((const long long*)label)[at];
    }
}

__device__ __forceinline__ void write_label(void* label, long long at, int kind, long long value) {
    switch (kind & 3) {
        case 0: ((unsigned char*)label)[at] = (unsigned char)value; return;
        case 1: ((unsigned short*)label)[at] = (unsigned short)value; return;
        case 2: ((unsigned*)label)[at] = (unsigned)value; return;
        default: ((unsigned long long*)label)[at] = (unsigned long long)value; return;
    }
}
