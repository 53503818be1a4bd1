// Decoding, counting and refinement for CPUs: plain C++17 behind a C interface, without intrinsics and without Python or torch.

#include <cstdint>
#include <thread>

#include "counting.h"
#include "decoding.h"
#include "pamr.h"

#ifndef OVSS_SOURCE
#define OVSS_SOURCE "unknown"
#endif

namespace {

constexpr float kLargest = 1e30f;
constexpr int64_t kPiece = int64_t(1) << 31;  // pixels

}  // namespace

extern "C" {

const char* ovss_source() { return OVSS_SOURCE; }

// Labels (height, width) of the best of the first ``candidates`` queries at every pixel, and if asked for its score and
// the sum of exp(scale * (score - best)) over all queries.  With a threshold above 0, labels where the inverse of that
// sum is below it are ``background``.  1: a score is not a number, or so large that sums could overflow; nothing is
// written then.
int ovss_decode(const float* grids, int cells_y, int cells_x, int queries, int candidates, const int32_t* row_places,
                const float* row_shares, int row_taps, int height, const int32_t* column_places,
                const float* column_shares, int column_taps, int width, const int32_t* classes, int label_bytes,
                void* labels, float* value, float* total, float scale, float threshold, int background, int threads) {
  const size_t cells = size_t(cells_y) * cells_x;
  std::vector<int32_t> winners(cells);
  const float largest = best_of_cells(grids, cells, queries, candidates, winners.data());
  if (!(largest <= kLargest)) return 1;
  std::vector<float> sums(threshold > 0.0f ? cells : 0);
  log_sums(grids, sums.size(), queries, scale, sums.data());
  const std::vector<Span> rows = groups_of(Axis{row_places, row_shares, row_taps, height});
  const Axis columns{column_places, column_shares, column_taps, width};
  const Task task{grids,   cells_x, queries,     candidates, columns, &rows, winners.data(), largest,
                  classes, label_bytes, labels, value, total, scale, threshold, background, sums.data()};
  const int strips = (width + kLanes - 1) / kLanes;
  const double work = double(height) * width * queries;
  const int many = std::max(1, std::min({threads, strips, int(std::min(work / 2e6, 1024.0))}));
  std::vector<std::thread> helpers;
  for (int t = 1; t < many; t++)
    helpers.emplace_back([&task, t, many, strips] {
      decode_strips(task, int(int64_t(strips) * t / many), int(int64_t(strips) * (t + 1) / many));
    });
  decode_strips(task, 0, strips / many);
  for (std::thread& helper : helpers) helper.join();
  return 0;
}

// Counts (3, classes) of two maps, which start at 0; values are uint8, int16, int32 or int64 by their number of bytes.
// 1: a value is not allowed, and counts are of no use.
int ovss_count(const void* prediction, int prediction_bytes, const void* label, int label_bytes, int64_t pixels,
               int64_t classes, int64_t ignored, int64_t* counts) {
  const Tally tally{classes, ignored, counts};
  for (int64_t start = 0; start < pixels; start += kPiece) {
    const char* predictions = static_cast<const char*>(prediction) + start * prediction_bytes;
    const char* labelled = static_cast<const char*>(label) + start * label_bytes;
    if (!count_maps(predictions, prediction_bytes, labelled, label_bytes, std::min(kPiece, pixels - start), tally)) return 1;
  }
  return 0;
}

// One step of PAMR on planes (planes, height, width).  Neighbours are ``down`` and ``right`` of a pixel, ``reach`` at
// most; their weights are (neighbours, height, width).  1: not compiled for a processor that fuses products with sums;
// nothing is written then.
int ovss_pamr(const float* from, float* to, int planes, int height, int width, const float* weights, const int32_t* down,
              const int32_t* right, int neighbours, int reach, int threads) {
  if (!kFuses) return 1;
  const Step step{from, to, planes, height, width, weights, down, right, neighbours, reach};
  share_rows(height, threads, [&step](int top, int bottom) { rows_of(step, top, bottom); });
  return 0;
}
}
