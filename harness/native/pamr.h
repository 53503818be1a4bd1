// Steps of PAMR: every pixel becomes the weighted sum of its neighbours, many times.
//
// A sum starts at 0 and takes its neighbours in the order of the weights, product and sum rounded once together: what
// torch's addcmul does where it fuses them, so the bits are torch's there.  Where the compiler has no instruction for
// it, the kernel declines.

#pragma once

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#include "levels.h"

namespace {

#if defined(OVSS_CLONES) || defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
constexpr bool kFuses = true;
#else
constexpr bool kFuses = false;
#endif
constexpr int kAlong = 2 * kWide;  // pixels of a row that share what is loaded
constexpr int kPlanes = 4;         // planes that do
constexpr int kPatchRows = 32;      // patches: their weights stay in the L2 cache while all planes pass
constexpr int kPatchBytes = 256 << 10;

// Planes (count, height, pitch); ``first`` is the first pixel inside, after the border on the left.
template <typename T>
struct Planes {
  T* first;
  int64_t plane, pitch;
};

// A step of some planes, from ones with borders to left and right.  Neighbours are ``down`` and ``right`` of a pixel.
struct Step {
  Planes<const float> from;
  Planes<float> to;
  int planes, height, width, border;
  const float* weights;
  const int32_t* down;
  const int32_t* right;
  int neighbours;
};

INLINE Floats fused(Floats a, Floats b, Floats c) {
  Floats out;
  for (int j = 0; j < kWide; j++) out[j] = __builtin_fmaf(a[j], b[j], c[j]);
  return out;
}

// kAlong pixels of a row in P planes; ``offsets`` of the neighbours and their ``weights`` (neighbours, kAlong).
template <int P>
INLINE void sums_of(const Step& step, const float* from, const int64_t* offsets, const float* weights, float* to) {
  Floats low[P], high[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) low[p] = high[p] = all(0.0f);
  for (int n = 0; n < step.neighbours; n++, weights += kAlong) {
    const Floats left = load<Floats>(weights), right = load<Floats>(weights + kWide);
    const float* at = from + offsets[n];
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      low[p] = fused(load<Floats>(at + p * step.from.plane), left, low[p]);
      high[p] = fused(load<Floats>(at + p * step.from.plane + kWide), right, high[p]);
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) {
    store(to + p * step.to.plane, low[p]);
    store(to + p * step.to.plane + kWide, high[p]);
  }
}

// A patch: rows from ``top`` and columns from ``left`` on, the last pixels of a row together with some before them.
struct Patch {
  int top, bottom, left, right;
  std::vector<int64_t> offsets;  // (rows, neighbours)
  std::vector<float> weights;    // (rows, columns / kAlong, neighbours, kAlong): side by side, as they are read
};

inline int column_of(const Step& step, int x) { return std::min(x, step.width - kAlong); }

inline void lay_out_patch(const Step& step, Patch& patch) {
  const size_t blocks = (patch.right - patch.left + kAlong - 1) / kAlong;
  patch.offsets.resize(size_t(patch.bottom - patch.top) * step.neighbours);
  patch.weights.resize(patch.offsets.size() * blocks * kAlong);
  int64_t* offset = patch.offsets.data();
  float* weight = patch.weights.data();
  for (int y = patch.top; y < patch.bottom; y++) {
    for (int n = 0; n < step.neighbours; n++)
      *offset++ = std::clamp(y + step.down[n], 0, step.height - 1) * step.from.pitch + step.right[n];
    for (int x = patch.left; x < patch.right; x += kAlong)
      for (int n = 0; n < step.neighbours; n++, weight += kAlong)
        std::copy_n(step.weights + (int64_t(n) * step.height + y) * step.width + column_of(step, x), kAlong, weight);
  }
}

template <int P>
INLINE void planes_of(const Step& step, const Patch& patch, int plane) {
  const float* from = step.from.first + plane * step.from.plane;
  const int64_t* offsets = patch.offsets.data();
  const float* weights = patch.weights.data();
  for (int y = patch.top; y < patch.bottom; y++, offsets += step.neighbours) {
    float* to = step.to.first + plane * step.to.plane + y * step.to.pitch;
    for (int x = patch.left; x < patch.right; x += kAlong, weights += step.neighbours * kAlong)
      sums_of<P>(step, from + column_of(step, x), offsets, weights, to + column_of(step, x));
  }
}

EVERY_LEVEL void patch_of(const Step& step, const Patch& patch) {
  int p = 0;
  for (; p + kPlanes <= step.planes; p += kPlanes) planes_of<kPlanes>(step, patch, p);
  for (; p < step.planes; p++) planes_of<1>(step, patch, p);
}

// Copies the outer pixels of some rows into their borders.
inline void fill_borders(const Planes<float>& to, int planes, int top, int bottom, int width, int border) {
  for (int p = 0; p < planes; p++)
    for (int y = top; y < bottom; y++) {
      float* row = to.first + p * to.plane + y * to.pitch;
      std::fill(row - border, row, row[0]);
      std::fill(row + width, row + width + border, row[width - 1]);
    }
}

inline void rows_of(const Step& step, int first, int last) {
  const int line = step.neighbours * kPatchRows * int(sizeof(float));
  const int columns = std::max(kPatchBytes / line / kAlong, 1) * kAlong;
  Patch patch;
  for (int top = first; top < last; top += kPatchRows)
    for (int left = 0; left < step.width; left += columns) {
      patch.top = top, patch.bottom = std::min(top + kPatchRows, last);
      patch.left = left, patch.right = std::min(left + columns, step.width);
      lay_out_patch(step, patch);
      patch_of(step, patch);
    }
  if (step.border) fill_borders(step.to, step.planes, first, last, step.width, step.border);
}

// Calls ``work`` with as many shares of the rows as there are threads.
template <typename Work>
void share_rows(int height, int threads, const Work& work) {
  const int many = std::max(1, std::min(threads, height));
  std::vector<std::thread> helpers;
  for (int t = 1; t < many; t++)
    helpers.emplace_back(work, int(int64_t(height) * t / many), int(int64_t(height) * (t + 1) / many));
  work(0, height / many);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace
