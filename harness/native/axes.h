// The two axes of a picture: which cells the pixels of a strip or of a group of rows use, and with which shares.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "levels.h"

namespace {

constexpr int kLanes = 2 * kWide;  // pixels of a strip
constexpr int kGroup = 64;         // most rows of a group
constexpr float kEven = 1e-6f;     // by which even steps differ, as shares are rounded

// One axis: the cells of each pixel, ascending, and their shares; unused ones have share 0.
struct Axis {
  const int32_t* places;
  const float* shares;
  int taps, pixels;
};

// Pixels of a span, from ``start`` on, whose shares rise or fall by equal steps.
struct Steps {
  int start, pixels;
};

// Neighbouring pixels of an axis and all cells that any of them uses; shares are (cells, stride).
struct Span {
  int start = 0, pixels = 0;
  std::vector<Steps> steps;  // of a group of rows
  std::vector<int32_t> cells;
  std::vector<float> shares;
};

void fill_shares(Span& span, const Axis& axis, int stride) {
  std::sort(span.cells.begin(), span.cells.end());
  span.shares.assign(span.cells.size() * stride, 0.0f);
  for (int p = 0; p < span.pixels; p++)
    for (int k = 0; k < axis.taps; k++) {
      const size_t at = size_t(span.start + p) * axis.taps + k;
      if (axis.shares[at] == 0.0f) continue;
      const auto found = std::lower_bound(span.cells.begin(), span.cells.end(), axis.places[at]);
      span.shares[size_t(found - span.cells.begin()) * stride + p] = axis.shares[at];
    }
}

void add_cells(std::vector<int32_t>& cells, const Axis& axis, int pixel) {
  for (int k = 0; k < axis.taps; k++) {
    const size_t at = size_t(pixel) * axis.taps + k;
    if (axis.shares[at] != 0.0f && std::find(cells.begin(), cells.end(), axis.places[at]) == cells.end())
      cells.push_back(axis.places[at]);
  }
}

Span span_of(const Axis& axis, int start, int pixels, int stride) {
  Span span;
  span.start = start;
  span.pixels = pixels;
  for (int p = 0; p < pixels; p++) add_cells(span.cells, axis, start + p);
  fill_shares(span, axis, stride);
  return span;
}

// Whether the shares at some pixels are those of the first and the last one, mixed.
bool are_even(const Span& span, int stride, int start, int end) {
  for (size_t k = 0; k < span.cells.size(); k++) {
    const float* shares = &span.shares[k * stride];
    for (int p = start + 1; p < end - 1; p++) {
      const float part = float(p - start) / float(end - 1 - start);
      if (!(std::fabs(shares[start] + part * (shares[end - 1] - shares[start]) - shares[p]) < kEven)) return false;
    }
  }
  return true;
}

// Two rows are always even; a third one is tried alone, and the whole in the end.
std::vector<Steps> steps_of(const Span& span, int stride) {
  std::vector<Steps> steps;
  for (int start = 0, end; start < span.pixels; start = end) {
    end = std::min(start + 2, span.pixels);
    while (end < span.pixels && are_even(span, stride, end - 2, end + 1)) end++;
    if (!are_even(span, stride, start, end)) end = start + 2;
    steps.push_back(Steps{start, end - start});
  }
  return steps;
}

// Rows in groups that use no more cells together than one row may.
std::vector<Span> groups_of(const Axis& rows) {
  std::vector<Span> groups;
  for (int y = 0; y < rows.pixels;) {
    Span group;
    group.start = y;
    add_cells(group.cells, rows, y++);
    for (; y < rows.pixels && y - group.start < kGroup; y++) {
      std::vector<int32_t> more = group.cells;
      add_cells(more, rows, y);
      if (int(more.size()) > rows.taps) break;
      group.cells = more;
    }
    group.pixels = y - group.start;
    fill_shares(group, rows, kGroup);
    group.steps = steps_of(group, kGroup);
    groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace
