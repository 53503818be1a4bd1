// Softmax: sums of exponentials, and bounds of their logarithms that decide a threshold without them.

#pragma once

#include "bounds.h"

namespace {

constexpr float kFar = -80.0f;      // exponents from which on exponentials are no longer made
constexpr float kHuge = 80.0f;      // exponents whose exponentials are above every limit
constexpr float kNothing = -30.0f;  // and from which on they do not matter
constexpr int kStride = 8;          // rows that are stepped through at a time

// exp of what is at most kHuge, to about 1e-7 (Cephes' polynomial); 0 for what no sum from 1 on would see.
INLINE Floats exponential(Floats x) {
  const Floats limited = -larger(-larger(x, all(kFar)), all(-kHuge));
  const Floats shifted = limited * 1.44269504088896341f + 12582912.0f;
  const Floats whole = shifted - 12582912.0f;
  const Floats rest = (limited - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Floats sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * (rest * rest) + rest + 1.0f;
  return (Floats)((Ints)sum + ((Ints)shifted << 23));
}

template <int TAPS>
INLINE void add_with(const Mixed& mixed, int count, float scale, const float* best, float* sums) {
  const Scores<TAPS> scores(mixed);
  for (int r = 0; r < kRows; r++)
    for (int h = 0; h < kLanes; h += kWide) {
      const Floats top = load<Floats>(best + r * kLanes + h);
      Floats sum = all(0.0f);
      for (int c = 0; c < count; c++) sum += exponential(scale * (scores.at(r, size_t(c) * kLanes + h) - top));
      store(sums + r * kLanes + h, load<Floats>(sums + r * kLanes + h) + sum);
    }
}

EVERY_LEVEL void add_exponentials(const Mixed& mixed, int count, float scale, const float* best, float* sums) {
  if (mixed.taps == 2) return add_with<2>(mixed, count, scale, best, sums);
  add_with<0>(mixed, count, scale, best, sums);
}

// The logarithm of the sum of exp(scale * score), and exp(scale * score) as shares of that sum if asked for.
INLINE float log_sum(const float* scores, int queries, float scale, float* shares) {
  Floats tops = all(scores[0]), sums = all(0.0f);
  for (int q = 0; q < queries; q += kWide) tops = larger(eight(scores, q, queries, scores[0]), tops);
  float top = tops[0];
  for (int j = 1; j < kWide; j++) top = std::max(top, tops[j]);
  for (int q = 0; q < queries; q += kWide) {
    Floats part = exponential(scale * (eight(scores, q, queries, top) - top));
    if (q + kWide > queries)
      for (int j = queries - q; j < kWide; j++) part[j] = 0.0f;
    sums += part;
    if (shares) store(shares + q, part);
  }
  const float sum = sum_of(sums);
  if (shares)
    for (int q = 0; q < queries; q += kWide) store(shares + q, load<Floats>(shares + q) / sum);
  return scale * top + std::log(sum);
}

EVERY_LEVEL void log_sums(const float* grids, size_t cells, int queries, float scale, float* sums) {
  for (size_t i = 0; i < cells; i++) sums[i] = log_sum(grids + i * queries, queries, scale, nullptr);
}

// The logarithm of a softmax's sum is convex in the scores, so it lies above each of its tangents.  One value per cell,
// whose means are below the logarithm at every pixel: the tangent where all cells of the tile are mixed alike.
// ``middle`` and ``shares`` have room for the queries, rounded up to whole vectors.
EVERY_LEVEL void tangent(const float* const* cells, int count, int queries, float scale, float* middle, float* shares,
                         float* below) {
  for (int q = 0; q < queries; q += kWide) {
    Floats sum = eight(cells[0], q, queries, 0.0f);
    for (int i = 1; i < count; i++) sum += eight(cells[i], q, queries, 0.0f);
    store(middle + q, sum / float(count));
  }
  const float at_middle = log_sum(middle, queries, scale, shares);
  for (int i = 0; i < count; i++) {
    Floats rise = all(0.0f);
    for (int q = 0; q < queries; q += kWide)
      rise += load<Floats>(shares + q) * (eight(cells[i], q, queries, 0.0f) - load<Floats>(middle + q));
    below[i] = at_middle + scale * sum_of(rise);
  }
}

// What decides a threshold: the logarithm of a total at it, and what all roundings together are less than.
struct Limit {
  float scale, log_total, slack;
};

// Rows whose label is decided: -1 where the total is above the limit.  ``pixels`` of a row count.
INLINE bool settle_row(const Ints* above, const Ints* below, int pixels, int32_t* labels) {
  Ints open = all(0);
  for (int h = 0; h < kHalves; h++) {
    const Ints lane = Ints{0, 1, 2, 3, 4, 5, 6, 7} + h * kWide;
    open |= ~(above[h] | below[h]) & (lane < all(pixels));
  }
  if (any(open)) return false;
  for (int h = 0; h < kHalves; h++) store(labels + h * kWide, load<Ints>(labels + h * kWide) | above[h]);
  return true;
}

template <int TAPS>
INLINE void settle_with(const Mixed& mixed, const Limit& limit, int pixels, const float* best, int32_t* labels,
                        uint8_t* sure) {
  const Scores<TAPS> bounds(mixed);
  for (int r = 0; r < kRows; r++) {
    Ints above[kHalves], below[kHalves];
    for (int h = 0; h < kHalves; h++) {
      const Floats top = limit.scale * load<Floats>(best + r * kLanes + h * kWide);
      above[h] = bounds.at(r, h * kWide) - top > all(limit.log_total + limit.slack);
      below[h] = bounds.at(r, kLanes + h * kWide) - top < all(limit.log_total - limit.slack);
    }
    sure[r] |= uint8_t(settle_row(above, below, pixels, labels + r * kLanes));
  }
}

// Decides rows by bounds of the logarithms of the sums, which are queries 0 (below) and 1 (above) of ``mixed``.
EVERY_LEVEL void settle(const Mixed& mixed, const Limit& limit, int pixels, const float* best, int32_t* labels,
                        uint8_t* sure) {
  if (mixed.taps == 2) return settle_with<2>(mixed, limit, pixels, best, labels, sure);
  settle_with<0>(mixed, limit, pixels, best, labels, sure);
}

// Where scores change by equal steps from row to row, exponentials change by equal factors.  They are relative to the
// line between the best of the first and of the last row, above which only scores of queries that may not win are.
template <int TAPS>
INLINE bool add_steps_with(const Mixed& ends, int count, int rows, float scale, const float* best, float* room,
                           float* sums) {
  const Scores<TAPS> scores(ends);
  Ints lost = all(0);
  for (int h = 0; h < kLanes; h += kWide) {
    const Floats first = load<Floats>(best + h), last = load<Floats>(best + (rows - 1) * kLanes + h);
    for (int c = 0; c < count; c++) {
      const Floats from = scale * (scores.at(0, size_t(c) * kLanes + h) - first);
      const Floats to = scale * (scores.at(1, size_t(c) * kLanes + h) - last);
      lost |= ((from < all(kFar)) | (to < all(kFar))) & (larger(from, to) > all(kNothing));
      lost |= larger(from, to) > all(kHuge);
      store(room + c * 2 * kWide, exponential(from));
      store(room + c * 2 * kWide + kWide, exponential((larger(to, all(kFar)) - larger(from, all(kFar))) / float(rows - 1)));
    }
    for (int r = 0; r < rows; r += kStride) {
      Floats sum[kStride] = {};
      for (int c = 0; c < count; c++) {
        Floats part = load<Floats>(room + c * 2 * kWide);
        const Floats factor = load<Floats>(room + c * 2 * kWide + kWide);
        for (int i = 0; i < kStride; i++) {
          sum[i] += part;
          part *= factor;
        }
        store(room + c * 2 * kWide, part);
      }
      for (int i = 0; i < std::min(kStride, rows - r); i++) {
        float* to = sums + (r + i) * kLanes + h;
        store(to, load<Floats>(to) + sum[i]);
      }
    }
  }
  return !any(lost);
}

// Adds to the sums of ``rows`` rows; false where exponentials are too small or too large for that.
EVERY_LEVEL bool add_steps(const Mixed& ends, int count, int rows, float scale, const float* best, float* room,
                           float* sums) {
  if (ends.taps == 2) return add_steps_with<2>(ends, count, rows, scale, best, room, sums);
  return add_steps_with<0>(ends, count, rows, scale, best, room, sums);
}

// Decides rows by such sums.
EVERY_LEVEL void settle_steps(const Limit& limit, int rows, int pixels, const float* best, const float* sums,
                              int32_t* labels, uint8_t* sure) {
  const float least = std::exp(limit.log_total - limit.slack), most = std::exp(limit.log_total + limit.slack);
  for (int r = 0; r < rows; r++) {
    const float part = float(r) / float(rows - 1);
    Ints above[kHalves], below[kHalves];
    for (int h = 0; h < kHalves; h++) {
      const Floats first = load<Floats>(best + h * kWide), top = load<Floats>(best + r * kLanes + h * kWide);
      const Floats line = first + part * (load<Floats>(best + (rows - 1) * kLanes + h * kWide) - first);
      const Floats under = limit.scale * (top - line), share = exponential(under);
      const Floats sum = load<Floats>(sums + r * kLanes + h * kWide);
      above[h] = (sum > share * most) & (under > all(kNothing));
      below[h] = (sum < share * least) & (under > all(kNothing));
    }
    sure[r] |= uint8_t(settle_row(above, below, pixels, labels + r * kLanes));
  }
}

}  // namespace
