// Scores of the pixels of a tile, which are 16 columns of a group of rows, and the best of them.
//
// Sums of scores round as torch's do one operation at a time: products and sums of single floats, cells ascending.  So
// labels have the same bits whatever the processor, and the file must be compiled without contraction to fused
// multiply-adds (setup.py does).  Adding a product with a share of 0 leaves a finite float as it is, which is why rows
// and columns may take the cells of their neighbours too.

#pragma once

#include "axes.h"

namespace {

constexpr int kRows = 2;  // rows that share what is loaded
constexpr int kHalves = kLanes / kWide;

// The scores of some queries along one row of cells, spread over the pixels of a strip: (count, lanes).  ``cells`` are
// those of the strip.
EVERY_LEVEL void spread(const float* const* cells, const Span& columns, const int32_t* queries, int count, float* out) {
  const int many = int(columns.cells.size());
  for (int c = 0; c < count; c++, out += kLanes) {
    const float* shares = columns.shares.data();
    Floats low = all(cells[0][queries[c]]) * load<Floats>(shares);
    Floats high = all(cells[0][queries[c]]) * load<Floats>(shares + kWide);
    for (int k = 1; k < many; k++) {
      const Floats score = all(cells[k][queries[c]]);
      shares += kLanes;
      low += score * load<Floats>(shares);
      high += score * load<Floats>(shares + kWide);
    }
    store(out, low);
    store(out + kWide, high);
  }
}

// The same where pixels have few of the many cells of their strip.
EVERY_LEVEL void gather(const float* line, int queries, const Axis& axis, const Span& columns, const int32_t* kept,
                        int count, float* out) {
  for (int j = 0; j < kLanes; j++) {
    const size_t at = size_t(columns.start + std::min(j, columns.pixels - 1)) * axis.taps;
    const float* from = line + size_t(axis.places[at]) * queries;
    for (int c = 0; c < count; c++) out[c * kLanes + j] = from[kept[c]] * axis.shares[at];
    for (int k = 1; k < axis.taps; k++) {
      from = line + size_t(axis.places[at + k]) * queries;
      for (int c = 0; c < count; c++) out[c * kLanes + j] += from[kept[c]] * axis.shares[at + k];
    }
  }
}

// Lines of spread cells, and their shares (taps, kRows) at some rows.
struct Mixed {
  const float* const* lines;
  const float* shares;
  int taps;
};

// The scores of 8 pixels at one of kRows rows; the number of lines is TAPS, or that of ``mixed`` for 0.
template <int TAPS>
struct Scores {
  const float* line[TAPS];
  Floats share[TAPS][kRows];
  explicit INLINE Scores(const Mixed& mixed) {
    for (int k = 0; k < TAPS; k++) {
      line[k] = mixed.lines[k];
      for (int r = 0; r < kRows; r++) share[k][r] = all(mixed.shares[k * kRows + r]);
    }
  }
  INLINE Floats at(int r, size_t place) const {
    Floats sum = load<Floats>(line[0] + place) * share[0][r];
    for (int k = 1; k < TAPS; k++) sum += load<Floats>(line[k] + place) * share[k][r];
    return sum;
  }
};

template <>
struct Scores<0> {
  const Mixed& mixed;
  explicit INLINE Scores(const Mixed& given) : mixed(given) {}
  INLINE Floats at(int r, size_t place) const {
    Floats sum = load<Floats>(mixed.lines[0] + place) * all(mixed.shares[r]);
    for (int k = 1; k < mixed.taps; k++)
      sum += load<Floats>(mixed.lines[k] + place) * all(mixed.shares[k * kRows + r]);
    return sum;
  }
};

template <int TAPS>
INLINE void compare_with(const Mixed& mixed, const int32_t* classes, int count, float* best, int32_t* labels) {
  const Scores<TAPS> scores(mixed);
  Floats top[kRows][kHalves];
  Ints winner[kRows][kHalves];
  for (int r = 0; r < kRows; r++)
    for (int h = 0; h < kHalves; h++) {
      top[r][h] = load<Floats>(best + r * kLanes + h * kWide);
      winner[r][h] = load<Ints>(labels + r * kLanes + h * kWide);
    }
  for (int c = 0; c < count; c++) {
    const Ints label = all(classes[c]);
    for (int r = 0; r < kRows; r++)
      for (int h = 0; h < kHalves; h++) {
        const Floats score = scores.at(r, size_t(c) * kLanes + h * kWide);
        winner[r][h] = score > top[r][h] ? label : winner[r][h];
        top[r][h] = larger(score, top[r][h]);
      }
  }
  for (int r = 0; r < kRows; r++)
    for (int h = 0; h < kHalves; h++) {
      store(best + r * kLanes + h * kWide, top[r][h]);
      store(labels + r * kLanes + h * kWide, winner[r][h]);
    }
}

// The best so far of kRows x kLanes pixels, and some more queries of ``classes``.
EVERY_LEVEL void compare(const Mixed& mixed, const int32_t* classes, int count, float* best, int32_t* labels) {
  if (mixed.taps == 1) return compare_with<1>(mixed, classes, count, best, labels);
  if (mixed.taps == 2) return compare_with<2>(mixed, classes, count, best, labels);
  compare_with<0>(mixed, classes, count, best, labels);
}

}  // namespace
