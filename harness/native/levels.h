// What every part of the kernels uses: levels of instructions, and vectors of 8 numbers.

#pragma once

#include <cstdint>
#include <cstring>

// One copy for every level of x86-64; the loader picks one.  Elsewhere the compiler's own target.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define OVSS_CLONES
#define EVERY_LEVEL \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "arch=x86-64-v2", "default")))
#else
#define EVERY_LEVEL
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int kWide = 8;  // numbers of a vector

// The compiler's own vectors, for any processor: as loops over arrays, GCC makes a branch of every choice.
typedef float Floats __attribute__((vector_size(4 * kWide)));
typedef int32_t Ints __attribute__((vector_size(4 * kWide)));

INLINE Floats all(float x) { return Floats{x, x, x, x, x, x, x, x}; }
INLINE Ints all(int32_t x) { return Ints{x, x, x, x, x, x, x, x}; }

template <typename V, typename T>
INLINE V load(const T* from) {
  V out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

template <typename V, typename T>
INLINE void store(T* to, const V& from) {
  std::memcpy(to, &from, sizeof from);
}

// 8 numbers from ``q`` on; those from ``count`` on are ``other``.
INLINE Floats eight(const float* from, int q, int count, float other) {
  if (q + kWide <= count) return load<Floats>(from + q);
  Floats out = all(other);
  std::memcpy(&out, from + q, sizeof(float) * (count - q));
  return out;
}

INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

INLINE bool any(Ints mask) {
  uint64_t parts[4];
  std::memcpy(parts, &mask, sizeof mask);
  return (parts[0] | parts[1] | parts[2] | parts[3]) != 0;
}

INLINE float sum_of(Floats x) {
  float sum = 0.0f;
  for (int j = 0; j < kWide; j++) sum += x[j];
  return sum;
}

}  // namespace
