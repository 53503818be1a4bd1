// Which queries may be the best of any pixel of a tile.
//
// The score of a pixel is a mean of those of its cells, with the same weights for all queries.  So a query loses
// everywhere if it is below the mean of some others at every cell, by more than all roundings together; the others are
// those that are best at a cell.  The same holds for every column of a tile, whose pixels are means of lines.

#pragma once

#include <cmath>
#include <limits>

#include "scores.h"

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The best of the first ``candidates`` queries of every cell; the largest size of a score, or infinity if one is not a
// number.
EVERY_LEVEL float best_of_cells(const float* grids, size_t cells, int queries, int candidates, int32_t* winners) {
  float largest = 0.0f;
  bool numbers = true;
  for (size_t i = 0; i < cells; i++, grids += queries) {
    float size = 0.0f, top = grids[0];
    for (int q = 0; q < queries; q++) {
      const float score = grids[q];
      numbers &= score == score;
      size = std::fabs(score) > size ? std::fabs(score) : size;
    }
    for (int q = 0; q < candidates; q++) top = grids[q] > top ? grids[q] : top;
    largest = std::max(largest, size);
    winners[i] = int32_t(std::find(grids, grids + candidates, top) - grids) % candidates;
  }
  return numbers ? largest : kInfinity;
}

// For every query the most by which it exceeds ``bar`` at any of some cells.
EVERY_LEVEL void excess(const float* const* cells, const float* bar, int count, int queries, float* __restrict most) {
  for (int q = 0; q < queries; q++) most[q] = cells[0][q] - bar[0];
  for (int i = 1; i < count; i++) {
    const float* __restrict cell = cells[i];
    for (int q = 0; q < queries; q++) {
      const float over = cell[q] - bar[i];
      most[q] = over > most[q] ? over : most[q];
    }
  }
}

// What all roundings of a score of ``cells`` cells are less than.
float slack_of(size_t cells, float largest) { return 2.4e-7f * float(cells + 4) * largest; }

// The queries of ``kept`` that may be the best somewhere, by their scores at some cells, whose best are ``winners``.
int keep(const std::vector<const float*>& cells, const std::vector<int32_t>& winners, float slack, int candidates,
         std::vector<float>& most, std::vector<int32_t>& kept) {
  std::vector<float> bar;
  for (const float* cell : cells) {
    double sum = 0.0;
    for (const int32_t winner : winners) sum += cell[winner];
    bar.push_back(float(sum / double(winners.size())) - slack);
  }
  excess(cells.data(), bar.data(), int(cells.size()), candidates, most.data());
  int count = 0;
  for (int q = 0; q < candidates; q++) {
    kept[count] = q;
    count += most[q] >= 0.0f;
  }
  return count;
}

// Lines of spread cells (count, lanes) and where to find the best of each: the bar that a query must reach at one line
// of a column, (lines, lanes).  Nothing reaches it at columns from ``pixels`` on.
EVERY_LEVEL void bars_of(const std::vector<float*>& lines, int count, int pixels, float slack, float* bars) {
  const size_t many = lines.size();
  std::vector<int32_t> places(many * kLanes);
  for (size_t k = 0; k < many; k++)
    for (int h = 0; h < kLanes; h += kWide) {
      Floats top = load<Floats>(lines[k] + h);
      Ints place = all(0);
      for (int c = 1; c < count; c++) {
        const Floats score = load<Floats>(lines[k] + size_t(c) * kLanes + h);
        place = score > top ? all(c) : place;
        top = larger(score, top);
      }
      store(&places[k * kLanes + h], place);
    }
  for (size_t k = 0; k < many; k++)
    for (int j = 0; j < kLanes; j++) {
      float sum = 0.0f;
      for (size_t other = 0; other < many; other++) sum += lines[k][size_t(places[other * kLanes + j]) * kLanes + j];
      bars[k * kLanes + j] = j < pixels ? sum / float(many) - slack : kInfinity;
    }
}

// Moves the queries that reach a bar to the front, with their lines; returns how many.
EVERY_LEVEL int sift(const std::vector<float*>& lines, const float* bars, int count, int32_t* kept) {
  int left = 0;
  for (int c = 0; c < count; c++) {
    Ints reached = all(0);
    for (size_t k = 0; k < lines.size(); k++)
      for (int h = 0; h < kLanes; h += kWide)
        reached |= load<Floats>(lines[k] + size_t(c) * kLanes + h) >= load<Floats>(bars + k * kLanes + h);
    kept[left] = kept[c];
    for (float* line : lines) std::memmove(line + size_t(left) * kLanes, line + size_t(c) * kLanes, 4 * kLanes);
    left += any(reached);
  }
  return left;
}

}  // namespace
