// Decoding and counting for CPUs: plain C++17 behind a C interface, without intrinsics and without Python or torch.
//
// Sums of scores round as torch's do one operation at a time: products and sums of single floats, cells ascending.  So
// labels have the same bits whatever the processor, and the file must be compiled without contraction to fused
// multiply-adds (setup.py does).  Adding a product with a share of 0 leaves a finite float as it is, which is why rows
// and columns may take the cells of their neighbours too.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#ifndef OVSS_SOURCE
#define OVSS_SOURCE "unknown"
#endif

// One copy for every level of x86-64; the loader picks one.  Elsewhere the compiler's own target.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define EVERY_LEVEL \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "arch=x86-64-v2", "default")))
#else
#define EVERY_LEVEL
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int kLanes = 16;    // pixels of a strip
constexpr int kRows = 2;      // rows that share what is loaded
constexpr int kGroup = 64;    // most rows of a group
constexpr int kChunk = 128;   // queries that are expanded at a time
constexpr int kBroadcast = 8; // cells of a strip up to which each is spread over all of its pixels
constexpr float kLargest = 1e30f;

// One axis: the cells of each pixel, ascending, and their shares; unused ones have share 0.
struct Axis {
  const int32_t* places;
  const float* shares;
  int taps, pixels;
};

// Neighbouring pixels of an axis and all cells that any of them uses; shares are (cells, stride).
struct Span {
  int start = 0, pixels = 0;
  std::vector<int32_t> cells;
  std::vector<float> shares;
};

struct Task {
  const float* grids;  // (cells_y, cells_x, queries)
  int cells_x, queries;
  Axis columns;
  const std::vector<Span>* rows;
  const int32_t* winners;  // (cells_y, cells_x)
  float largest;
  const int32_t* classes;
  int label_bytes;
  void* labels;
  float *value, *total;
  float scale;
};

struct Room {  // what a thread works in
  std::vector<int32_t> kept, others;
  std::vector<const float*> cells;
  std::vector<float> bar, most, expanded, best, sums;
  std::vector<int32_t> index;
};

void fill_shares(Span& span, const Axis& axis, int stride) {
  std::sort(span.cells.begin(), span.cells.end());
  span.shares.assign(std::max(span.cells.size(), size_t(kBroadcast)) * stride, 0.0f);
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
    groups.push_back(std::move(group));
  }
  return groups;
}

// The best query of every cell; the largest size of a score, or infinity if one is not a number.
EVERY_LEVEL float best_of_cells(const float* grids, size_t cells, int queries, int32_t* winners) {
  float largest = 0.0f;
  bool numbers = true;
  for (size_t i = 0; i < cells; i++, grids += queries) {
    float size = 0.0f, top = grids[0];
    for (int q = 0; q < queries; q++) {
      const float score = grids[q];
      numbers &= score == score;
      size = std::fabs(score) > size ? std::fabs(score) : size;
      top = score > top ? score : top;
    }
    largest = std::max(largest, size);
    winners[i] = int32_t(std::find(grids, grids + queries, top) - grids) % queries;
  }
  return numbers ? largest : std::numeric_limits<float>::infinity();
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

// The queries that may be the best of any pixel of a tile.  The score of a pixel is a mean of those of its cells, with the
// same weights for all queries.  So a query loses everywhere if it is below the mean of some others at every cell, by
// more than all roundings together; the others are those that are best at a cell.
int keep(const Task& task, const Span& rows, const Span& columns, Room& room) {
  room.cells.clear();
  room.others.clear();
  for (const int32_t y : rows.cells)
    for (const int32_t x : columns.cells) {
      const size_t cell = size_t(y) * task.cells_x + x;
      room.cells.push_back(task.grids + cell * task.queries);
      const int32_t other = task.winners[cell];
      if (std::find(room.others.begin(), room.others.end(), other) == room.others.end()) room.others.push_back(other);
    }
  const float slack = 2.4e-7f * float(rows.cells.size() + columns.cells.size() + 4) * task.largest;
  room.bar.clear();
  for (const float* cell : room.cells) {
    double sum = 0.0;
    for (const int32_t other : room.others) sum += cell[other];
    room.bar.push_back(float(sum / double(room.others.size())) - slack);
  }
  excess(room.cells.data(), room.bar.data(), int(room.cells.size()), task.queries, room.most.data());
  int count = 0;
  for (int q = 0; q < task.queries; q++) {
    room.kept[count] = q;
    count += room.most[q] >= 0.0f;
  }
  return count;
}

template <int CELLS>
INLINE void spread(const float* const* cells, const float* __restrict shares, const int32_t* __restrict kept, int count,
                   float* __restrict out) {
  for (int c = 0; c < count; c++, out += kLanes)
    for (int j = 0; j < kLanes; j++) {
      float sum = cells[0][kept[c]] * shares[j];
      for (int k = 1; k < CELLS; k++) sum += cells[k][kept[c]] * shares[k * kLanes + j];
      out[j] = sum;
    }
}

// One row of cells at the pixels of a strip: (count, lanes).
EVERY_LEVEL void expand(const Task& task, int y, const Span& columns, const int32_t* kept, int count, float* out) {
  const float* line = task.grids + size_t(y) * task.cells_x * task.queries;
  const int cells = int(columns.cells.size());
  if (cells <= kBroadcast) {
    const float* from[kBroadcast];
    for (int k = 0; k < kBroadcast; k++) from[k] = line + size_t(columns.cells[k < cells ? k : 0]) * task.queries;
    const float* shares = columns.shares.data();
    if (cells <= 2) return spread<2>(from, shares, kept, count, out);
    if (cells <= 4) return spread<4>(from, shares, kept, count, out);
    return spread<kBroadcast>(from, shares, kept, count, out);
  }
  for (int j = 0; j < kLanes; j++) {
    const int pixel = columns.start + std::min(j, columns.pixels - 1);
    const int32_t* places = task.columns.places + size_t(pixel) * task.columns.taps;
    const float* shares = task.columns.shares + size_t(pixel) * task.columns.taps;
    for (int c = 0; c < count; c++) out[c * kLanes + j] = line[size_t(places[0]) * task.queries + kept[c]] * shares[0];
    for (int k = 1; k < task.columns.taps; k++) {
      const float* from = line + size_t(places[k]) * task.queries;
      for (int c = 0; c < count; c++) out[c * kLanes + j] += from[kept[c]] * shares[k];
    }
  }
}

// Lines of expanded cells, and their shares (taps, kRows) at some rows.
struct Mixed {
  const float* const* lines;
  const float* shares;
  int taps;
};

// The scores of a query at kRows rows; the number of lines is TAPS, or that of ``mixed`` for 0.
template <int TAPS>
struct Scores {
  const float* __restrict line[TAPS];
  float share[TAPS][kRows];
  explicit INLINE Scores(const Mixed& mixed) {
    for (int k = 0; k < TAPS; k++) {
      line[k] = mixed.lines[k];
      for (int r = 0; r < kRows; r++) share[k][r] = mixed.shares[k * kRows + r];
    }
  }
  INLINE float at(int r, size_t place) const {
    float sum = line[0][place] * share[0][r];
    for (int k = 1; k < TAPS; k++) sum += line[k][place] * share[k][r];
    return sum;
  }
};

template <>
struct Scores<0> {
  const Mixed& mixed;
  explicit INLINE Scores(const Mixed& given) : mixed(given) {}
  INLINE float at(int r, size_t place) const {
    float sum = mixed.lines[0][place] * mixed.shares[r];
    for (int k = 1; k < mixed.taps; k++) sum += mixed.lines[k][place] * mixed.shares[k * kRows + r];
    return sum;
  }
};

template <int TAPS>
INLINE void compare_with(const Mixed& mixed, const int32_t* __restrict kept, int count, float* __restrict best,
                         int32_t* __restrict index) {
  const Scores<TAPS> scores(mixed);
  float top[kRows * kLanes];
  int32_t winner[kRows * kLanes];
  std::memcpy(top, best, sizeof top);
  std::memcpy(winner, index, sizeof winner);
  for (int c = 0; c < count; c++) {
    const int32_t query = kept[c];
    for (int j = 0; j < kLanes; j++) {
      const float score = scores.at(0, size_t(c) * kLanes + j);
      winner[j] = score > top[j] ? query : winner[j];
      top[j] = score > top[j] ? score : top[j];
    }
    for (int j = 0; j < kLanes; j++) {
      const float score = scores.at(1, size_t(c) * kLanes + j);
      winner[kLanes + j] = score > top[kLanes + j] ? query : winner[kLanes + j];
      top[kLanes + j] = score > top[kLanes + j] ? score : top[kLanes + j];
    }
  }
  std::memcpy(best, top, sizeof top);
  std::memcpy(index, winner, sizeof winner);
}

EVERY_LEVEL void compare(const Mixed& mixed, const int32_t* kept, int count, float* best, int32_t* index) {
  if (mixed.taps == 2) return compare_with<2>(mixed, kept, count, best, index);
  if (mixed.taps == 4) return compare_with<4>(mixed, kept, count, best, index);
  compare_with<0>(mixed, kept, count, best, index);
}

// exp of what is at most 0 but for rounding, to about 1e-7 (Cephes' polynomial); 0 for what no sum from 1 on would see.
INLINE float exponential(float x) {
  const float limited = x > -80.0f ? x : -80.0f;
  const float shifted = limited * 1.44269504088896341f + 12582912.0f;
  const float whole = shifted - 12582912.0f;
  const float rest = (limited - whole * 0.693359375f) - whole * -2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * (rest * rest) + rest + 1.0f;
  int32_t bits, power;
  std::memcpy(&bits, &sum, 4);
  std::memcpy(&power, &shifted, 4);
  bits += int32_t(uint32_t(power) << 23);
  std::memcpy(&sum, &bits, 4);
  return sum;
}

template <int TAPS>
INLINE void add_with(const Mixed& mixed, int count, float scale, const float* __restrict best, float* __restrict sums) {
  const Scores<TAPS> scores(mixed);
  float partial[kRows * kLanes] = {};
  for (int c = 0; c < count; c++)
    for (int r = 0; r < kRows; r++)
      for (int j = 0; j < kLanes; j++) {
        const float score = scores.at(r, size_t(c) * kLanes + j);
        partial[r * kLanes + j] += exponential(scale * (score - best[r * kLanes + j]));
      }
  for (int j = 0; j < kRows * kLanes; j++) sums[j] += partial[j];
}

EVERY_LEVEL void add_exponentials(const Mixed& mixed, int count, float scale, const float* best, float* sums) {
  if (mixed.taps == 2) return add_with<2>(mixed, count, scale, best, sums);
  add_with<0>(mixed, count, scale, best, sums);
}

template <typename T>
INLINE void write_labels(T* out, const int32_t* index, const int32_t* classes, int pixels) {
  for (int j = 0; j < pixels; j++) out[j] = T(classes[index[j]]);
}

void write(const Task& task, const Span& rows, const Span& columns, const Room& room) {
  for (int r = 0; r < rows.pixels; r++) {
    const size_t to = size_t(rows.start + r) * task.columns.pixels + columns.start, from = size_t(r) * kLanes;
    if (task.label_bytes == 1)
      write_labels(static_cast<uint8_t*>(task.labels) + to, &room.index[from], task.classes, columns.pixels);
    else
      write_labels(static_cast<int32_t*>(task.labels) + to, &room.index[from], task.classes, columns.pixels);
    if (task.value) std::memcpy(task.value + to, &room.best[from], columns.pixels * sizeof(float));
    if (task.total) std::memcpy(task.total + to, &room.sums[from], columns.pixels * sizeof(float));
  }
}

// The pixels of a group of rows in a strip.
void decode_tile(const Task& task, const Span& rows, const Span& columns, Room& room) {
  const int cells = int(rows.cells.size()), taps = std::max(2, cells + cells % 2);
  int count = task.queries;
  // Bounds cost as much as one comparison of a few pixels.  A total is of all queries.
  if (!task.total && rows.pixels * kLanes > 8 * cells * int(columns.cells.size()))
    count = keep(task, rows, columns, room);
  else
    std::iota(room.kept.begin(), room.kept.end(), 0);
  const int pixels = (rows.pixels + kRows - 1) / kRows * kRows * kLanes;
  std::fill_n(room.best.begin(), pixels, -std::numeric_limits<float>::infinity());
  std::fill_n(room.index.begin(), pixels, room.kept[0]);
  std::fill_n(room.sums.begin(), pixels, 0.0f);
  if (count == 1 && !task.value) return write(task, rows, columns, room);
  room.expanded.resize(size_t(cells) * kChunk * kLanes);
  std::vector<const float*> lines(taps, room.expanded.data());
  for (int k = 0; k < cells; k++) lines[k] += size_t(k) * kChunk * kLanes;
  std::vector<float> shares(size_t(taps) * kRows, 0.0f);
  for (int pass = 0; pass < (task.total ? 2 : 1); pass++)
    for (int start = 0; start < count; start += kChunk) {
      const int some = std::min(kChunk, count - start);
      const int32_t* kept = room.kept.data() + start;
      if (pass == 0 || count > kChunk)
        for (int k = 0; k < cells; k++)
          expand(task, rows.cells[k], columns, kept, some, room.expanded.data() + size_t(k) * kChunk * kLanes);
      for (int r = 0; r < rows.pixels; r += kRows) {
        for (int k = 0; k < cells; k++) std::copy_n(&rows.shares[size_t(k) * kGroup + r], kRows, &shares[k * kRows]);
        const Mixed mixed{lines.data(), shares.data(), taps};
        const size_t at = size_t(r) * kLanes;
        if (pass == 0)
          compare(mixed, kept, some, &room.best[at], &room.index[at]);
        else
          add_exponentials(mixed, some, task.scale, &room.best[at], &room.sums[at]);
      }
    }
  write(task, rows, columns, room);
}

// Strips ``first`` to ``last`` of the picture, from top to bottom.
void decode_strips(const Task& task, int first, int last) {
  Room room;
  room.kept.resize(task.queries);
  room.most.resize(task.queries);
  room.best.resize(kGroup * kLanes);
  room.sums.resize(kGroup * kLanes);
  room.index.resize(kGroup * kLanes);
  for (int strip = first; strip < last; strip++) {
    const int start = strip * kLanes;
    const Span columns = span_of(task.columns, start, std::min(kLanes, task.columns.pixels - start), kLanes);
    for (const Span& rows : *task.rows) decode_tile(task, rows, columns, room);
  }
}

// Adds every run of equal (prediction, label) at once: counts are (3, classes), tp, gt and pred.  False for a prediction
// outside of the classes, or a label that is neither a class nor ``ignored``.
template <typename P, typename L>
bool count_runs(const P* prediction, const L* label, int64_t pixels, int64_t classes, int64_t ignored, int64_t* counts) {
  for (int64_t start = 0, end; start < pixels; start = end) {
    const P predicted = prediction[start];
    const L labelled = label[start];
    for (end = start + 1; end < pixels && prediction[end] == predicted && label[end] == labelled;) end++;
    if (int64_t(predicted) < 0 || int64_t(predicted) >= classes) return false;
    if (int64_t(labelled) == ignored) continue;
    if (int64_t(labelled) < 0 || int64_t(labelled) >= classes) return false;
    if (int64_t(labelled) == int64_t(predicted)) counts[predicted] += end - start;
    counts[classes + labelled] += end - start;
    counts[2 * classes + predicted] += end - start;
  }
  return true;
}

template <typename P>
bool count_labels(const P* prediction, const void* label, int bytes, int64_t pixels, int64_t classes, int64_t ignored,
                  int64_t* counts) {
  switch (bytes) {
    case 1: return count_runs(prediction, static_cast<const uint8_t*>(label), pixels, classes, ignored, counts);
    case 2: return count_runs(prediction, static_cast<const int16_t*>(label), pixels, classes, ignored, counts);
    case 4: return count_runs(prediction, static_cast<const int32_t*>(label), pixels, classes, ignored, counts);
    default: return count_runs(prediction, static_cast<const int64_t*>(label), pixels, classes, ignored, counts);
  }
}

}  // namespace

extern "C" {

const char* ovss_source() { return OVSS_SOURCE; }

// Labels (height, width) of the best query of every pixel, and its score and the sum of exp(scale * (score - best)) if
// asked for.  1: a score is not a number, or so large that sums could overflow; nothing is written then.
int ovss_decode(const float* grids, int cells_y, int cells_x, int queries, const int32_t* row_places,
                const float* row_shares, int row_taps, int height, const int32_t* column_places,
                const float* column_shares, int column_taps, int width, const int32_t* classes, int label_bytes,
                void* labels, float* value, float* total, float scale, int threads) {
  std::vector<int32_t> winners(size_t(cells_y) * cells_x);
  const float largest = best_of_cells(grids, winners.size(), queries, winners.data());
  if (!(largest <= kLargest)) return 1;
  const std::vector<Span> rows = groups_of(Axis{row_places, row_shares, row_taps, height});
  const Axis columns{column_places, column_shares, column_taps, width};
  const Task task{grids, cells_x, queries, columns, &rows, winners.data(), largest, classes, label_bytes, labels, value, total, scale};
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
  const auto by_type = [&](auto* values) {
    return count_labels(values, label, label_bytes, pixels, classes, ignored, counts) ? 0 : 1;
  };
  switch (prediction_bytes) {
    case 1: return by_type(static_cast<const uint8_t*>(prediction));
    case 2: return by_type(static_cast<const int16_t*>(prediction));
    case 4: return by_type(static_cast<const int32_t*>(prediction));
    default: return by_type(static_cast<const int64_t*>(prediction));
  }
}
}
