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

// For every query the most by which it exceeds ``bar`` at any of some cells; ``most`` has room for whole vectors.
EVERY_LEVEL void excess(const float* const* cells, const float* bar, int count, int queries, float* most) {
  for (int q = 0; q < queries; q += kWide) {
    Floats over = eight(cells[0], q, queries, 0.0f) - bar[0];
    for (int i = 1; i < count; i++) over = larger(eight(cells[i], q, queries, 0.0f) - bar[i], over);
    store(most + q, over);
  }
}

// What all roundings of a score of ``cells`` cells are less than.
float slack_of(size_t cells, float largest) { return 2.4e-7f * float(cells + 4) * largest; }

// The queries of ``kept`` that may be the best somewhere, by their scores at some cells, whose best are ``winners``.
int keep(const std::vector<const float*>& cells, const std::vector<int32_t>& winners, float slack, int candidates,
         std::vector<float>& bar, std::vector<float>& most, std::vector<int32_t>& kept) {
  bar.clear();
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

// The bar that a query must reach at one line of a column, (lines, lanes): the mean of some ``rivals``, for each line of
// the column the best of them there, given by their places in lines of spread cells (count, lanes).  Nothing reaches it
// at columns from ``pixels`` on.
void bars_of(const std::vector<float*>& lines, const std::vector<int32_t>& rivals, int pixels, float slack,
             float* bars) {
  for (int j = 0; j < kLanes; j++) {
    for (size_t k = 0; k < lines.size(); k++) bars[k * kLanes + j] = 0.0f;
    for (const float* line : lines) {
      size_t best = rivals[0];
      for (const int32_t rival : rivals)
        if (line[size_t(rival) * kLanes + j] > line[best * kLanes + j]) best = size_t(rival);
      for (size_t k = 0; k < lines.size(); k++) bars[k * kLanes + j] += lines[k][best * kLanes + j];
    }
    for (size_t k = 0; k < lines.size(); k++)
      bars[k * kLanes + j] = j < pixels ? bars[k * kLanes + j] / float(lines.size()) - slack : kInfinity;
  }
}

// Moves the queries that reach a bar to the front, with their lines; returns how many.
EVERY_LEVEL int sift(float* const* lines, int many, const float* bars, int count, int32_t* kept) {
  int left = 0;
  for (int c = 0; c < count; c++) {
    Ints reached = all(0);
    for (int k = 0; k < many; k++)
      for (int h = 0; h < kLanes; h += kWide) {
        const Floats score = load<Floats>(lines[k] + size_t(c) * kLanes + h);
        store(lines[k] + size_t(left) * kLanes + h, score);
        reached |= score >= load<Floats>(bars + k * kLanes + h);
      }
    kept[left] = kept[c];
    left += any(reached);
  }
  return left;
}

}  // namespace
