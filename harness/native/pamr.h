// Steps of PAMR: every pixel becomes the weighted sum of its neighbours, many times.
//
// A sum starts at 0 and takes its neighbours in the order of the weights, product and sum rounded once together: what
// torch's addcmul does where it fuses them, so the bits are torch's there.  Where the compiler has no instruction for
// it, the kernel declines.

#pragma once

#include <algorithm>
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
constexpr int kPatchRows = 32;
constexpr int kPatchBytes = 256 << 10;  // of weights: they stay in the L2 cache while all planes pass

// One step of planes (planes, height, width).  Neighbours are ``down`` and ``right`` of a pixel, ``reach`` at most.
struct Step {
  const float* from;
  float* to;
  int planes, height, width;
  const float* weights;  // (neighbours, height, width)
  const int32_t *down, *right;
  int neighbours, reach;
};

// Rows from ``top`` and columns from ``left`` on, and copies of what they need, side by side as it is read.
struct Patch {
  int top, bottom, left, right;
  int64_t pitch, plane;
  std::vector<int64_t> offsets;  // of the neighbours in ``pixels``
  std::vector<float> weights;    // (rows, columns / kAlong, neighbours, kAlong)
  std::vector<float> pixels;     // (kPlanes, reach + rows + reach, pitch): beyond the border the nearest one
};

INLINE Floats fused(Floats a, Floats b, Floats c) {
  Floats out;
  for (int j = 0; j < kWide; j++) out[j] = __builtin_fmaf(a[j], b[j], c[j]);
  return out;
}

INLINE int64_t pixels_of(const Step& step) { return int64_t(step.height) * step.width; }

// At most kAlong numbers; a fixed length is no call.
INLINE void copy_some(const float* from, int count, float* to) {
  if (count == kAlong)
    std::memcpy(to, from, sizeof(float) * kAlong);
  else
    std::memcpy(to, from, sizeof(float) * count);
}

inline void lay_out_patch(const Step& step, Patch& patch) {
  const int rows = patch.bottom - patch.top, blocks = (patch.right - patch.left + kAlong - 1) / kAlong;
  patch.pitch = blocks * kAlong + 2 * step.reach;
  patch.plane = (rows + 2 * step.reach) * patch.pitch;
  patch.pixels.resize(kPlanes * patch.plane);
  patch.offsets.resize(step.neighbours);
  for (int n = 0; n < step.neighbours; n++) patch.offsets[n] = step.down[n] * patch.pitch + step.right[n];
  patch.weights.resize(size_t(rows) * blocks * step.neighbours * kAlong);
  float* to = patch.weights.data();
  for (int y = patch.top; y < patch.bottom; y++)
    for (int x = patch.left; x < patch.right; x += kAlong)
      for (int n = 0; n < step.neighbours; n++, to += kAlong)
        copy_some(step.weights + n * pixels_of(step) + int64_t(y) * step.width + x, std::min(kAlong, step.width - x), to);
}

inline void copy_pixels(const Step& step, Patch& patch, int plane, float* to) {
  const int first = patch.left - step.reach, last = int(first + patch.pitch);
  const int start = std::max(first, 0), stop = std::min(last, step.width);
  for (int y = patch.top - step.reach; y < patch.bottom + step.reach; y++, to += patch.pitch) {
    const float* row = step.from + plane * pixels_of(step) + int64_t(std::clamp(y, 0, step.height - 1)) * step.width;
    std::fill(to, to + (start - first), row[0]);
    std::copy(row + start, row + stop, to + (start - first));
    std::fill(to + (stop - first), to + (last - first), row[step.width - 1]);
  }
}

// kAlong pixels of a row in P planes, the first ``count`` of which are kept.
template <int P>
INLINE void sums_of(const Step& step, const Patch& patch, const float* from, const float* weights, float* to, int count) {
  const int64_t* offsets = patch.offsets.data();
  const int64_t plane = patch.plane;
  const int neighbours = step.neighbours;
  Floats low[P], high[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) low[p] = high[p] = all(0.0f);
  for (int n = 0; n < neighbours; n++, weights += kAlong) {
    const Floats left = load<Floats>(weights), right = load<Floats>(weights + kWide);
    const float* at = from + offsets[n];
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      low[p] = fused(load<Floats>(at + p * plane), left, low[p]);
      high[p] = fused(load<Floats>(at + p * plane + kWide), right, high[p]);
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < P; p++, to += pixels_of(step)) {
    if (count >= kAlong) {
      store(to, low[p]);
      store(to + kWide, high[p]);
    } else {
      const Floats both[] = {low[p], high[p]};
      std::memcpy(to, both, sizeof(float) * count);
    }
  }
}

template <int P>
INLINE void planes_of(const Step& step, const Patch& patch, int plane) {
  const float* weights = patch.weights.data();
  for (int y = patch.top; y < patch.bottom; y++) {
    const float* from = patch.pixels.data() + (y - patch.top + step.reach) * patch.pitch + step.reach;
    float* to = step.to + plane * pixels_of(step) + int64_t(y) * step.width;
    for (int x = patch.left; x < patch.right; x += kAlong, from += kAlong, weights += step.neighbours * kAlong)
      sums_of<P>(step, patch, from, weights, to + x, step.width - x);
  }
}

EVERY_LEVEL void patch_of(const Step& step, Patch& patch) {
  for (int p = 0; p < step.planes;) {
    const int many = p + kPlanes <= step.planes ? kPlanes : 1;
    for (int k = 0; k < many; k++) copy_pixels(step, patch, p + k, patch.pixels.data() + k * patch.plane);
    if (many == kPlanes)
      planes_of<kPlanes>(step, patch, p);
    else
      planes_of<1>(step, patch, p);
    p += many;
  }
}

inline void rows_of(const Step& step, int first, int last) {
  const int column = step.neighbours * kPatchRows * int(sizeof(float));
  const int columns = std::max(kPatchBytes / column / kAlong, 1) * kAlong;
  Patch patch;
  for (int top = first; top < last; top += kPatchRows)
    for (int left = 0; left < step.width; left += columns) {
      patch.top = top, patch.bottom = std::min(top + kPatchRows, last);
      patch.left = left, patch.right = std::min(left + columns, step.width);
      lay_out_patch(step, patch);
      patch_of(step, patch);
    }
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
