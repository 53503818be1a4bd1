// Labels of a picture, tile by tile: the best query of every pixel, and a threshold of its probability.

#pragma once

#include <numeric>

#include "totals.h"

namespace {

constexpr int kChunk = 128;      // queries that are spread, or compared, at a time
constexpr int kFewShares = 8;    // cells of a strip up to which each is spread over all of its pixels
constexpr int kWorthSifting = 6; // queries from which on bars of columns cost less than they save

struct Task {
  const float* grids;  // (cells_y, cells_x, queries)
  int cells_x, queries;
  int candidates;  // the first of the queries, which alone may win
  Axis columns;
  const std::vector<Span>* rows;
  const int32_t* winners;  // (cells_y, cells_x)
  float largest;
  const int32_t* classes;
  int label_bytes;
  void* labels;
  float *value, *total;  // or none
  float scale;
  float threshold;  // probabilities below it become background; 0 is off
  int32_t background;
  const float* sums;  // (cells_y, cells_x) logarithms of softmax sums, where there is a threshold

  bool valued() const { return value || total || threshold > 0.0f; }
};

// What a thread works in.
struct Room {
  std::vector<int32_t> kept, every, others, labels;
  std::vector<const float*> cells;
  std::vector<size_t> numbers;  // of the cells in the picture
  std::vector<float> most, spread, best, totals, shares, bars, middle, weights, below, bounds, steps;
  std::vector<float*> lines;
  std::vector<const float*> chosen;
  std::vector<uint8_t> even;
  std::vector<uint8_t> sure;  // rows that are decided, or not there

  explicit Room(const Task& task) {
    const size_t padded = size_t(task.queries + kWide - 1) / kWide * kWide;
    for (std::vector<float>* each : {&most, &middle, &weights}) each->resize(padded);
    kept.resize(task.queries);
    every.resize(std::max(task.queries, 2));
    std::iota(every.begin(), every.end(), 0);
    for (std::vector<float>* each : {&best, &totals}) each->resize(kGroup * kLanes);
    labels.resize(kGroup * kLanes);
    sure.resize(kGroup);
    steps.resize(2 * kWide * kChunk);
  }
};

struct Tile {
  const Task& task;
  const Span &rows, &columns;
  Room& room;

  void decode();
  void find_cells();
  bool is_all_background();
  bool is_all_certain(int32_t query);
  int choose();
  void spread_lines(const int32_t* queries, int count);
  Mixed mix(int row, int other);
  void find_best(int count);
  int sift_lines(int count);
  void settle_by_bounds();
  void settle_by_steps();
  void add_totals();
  void cut();
  void fill(int32_t label);
  void write();

  Mixed mix_pair(int pair) { return mix(kRows * pair, kRows * pair + 1); }
  bool pair_is_sure(int pair) const { return room.sure[kRows * pair] && room.sure[kRows * pair + 1]; }
  bool all_sure() const { return std::all_of(room.sure.begin(), room.sure.end(), [](uint8_t sure) { return sure; }); }
  size_t place_of(int row) const { return size_t(rows.start + row) * task.columns.pixels + columns.start; }
  int pairs() const { return (rows.pixels + kRows - 1) / kRows; }
  bool few_cells() const { return int(columns.cells.size()) <= std::max(kFewShares, 3 * task.columns.taps); }
  // Bounds cost as much as comparing a few pixels.
  bool worth_bounds() const { return rows.pixels * kLanes >= int(4 * rows.cells.size() * columns.cells.size()); }
  float slack() const { return slack_of(rows.cells.size() + columns.cells.size(), task.largest); }
  // Roundings of scores, times the scale, and of exponentials and their sums.
  Limit limit() const {
    const float rounding = 1e-4f + 2e-8f * float(task.queries) + 4.0f * task.scale * slack();
    return Limit{task.scale, -std::log(task.threshold), rounding};
  }
};

void Tile::find_cells() {
  room.cells.clear();
  room.numbers.clear();
  room.others.clear();
  for (const int32_t y : rows.cells)
    for (const int32_t x : columns.cells) {
      const size_t cell = size_t(y) * task.cells_x + x;
      room.numbers.push_back(cell);
      room.cells.push_back(task.grids + cell * task.queries);
      const int32_t other = task.winners[cell];
      if (std::find(room.others.begin(), room.others.end(), other) == room.others.end()) room.others.push_back(other);
    }
}

// Whether no pixel's probability reaches the threshold, by the best of every cell and a tangent of the sums.
bool Tile::is_all_background() {
  const int count = int(room.cells.size());
  room.below.resize(count);
  tangent(room.cells.data(), count, task.queries, task.scale, room.middle.data(), room.weights.data(),
          room.below.data());
  float least = kInfinity;
  for (int i = 0; i < count; i++)
    least = std::min(least, room.below[i] - task.scale * room.cells[i][task.winners[room.numbers[i]]]);
  return least > limit().log_total + limit().slack;
}

// Whether the probability of ``query`` reaches the threshold at every pixel.
bool Tile::is_all_certain(int32_t query) {
  float most = -kInfinity;
  for (size_t i = 0; i < room.cells.size(); i++)
    most = std::max(most, task.sums[room.numbers[i]] - task.scale * room.cells[i][query]);
  return most < limit().log_total - limit().slack;
}

// Fills ``room.kept`` and returns its size.
int Tile::choose() {
  if (worth_bounds()) return keep(room.cells, room.others, slack(), task.candidates, room.bars, room.most, room.kept);
  std::copy_n(room.every.begin(), task.candidates, room.kept.begin());
  return task.candidates;
}

// Points ``room.lines`` at the scores of some queries along the rows of cells.
void Tile::spread_lines(const int32_t* queries, int count) {
  const size_t line = size_t(count) * kLanes, cells = columns.cells.size();
  if (room.spread.size() < line * rows.cells.size()) room.spread.resize(line * rows.cells.size());
  room.lines.clear();
  for (size_t k = 0; k < rows.cells.size(); k++) {
    float* out = room.spread.data() + k * line;
    room.lines.push_back(out);
    if (few_cells())
      spread(room.cells.data() + k * cells, columns, queries, count, out);
    else
      gather(task.grids + size_t(rows.cells[k]) * task.cells_x * task.queries, task.queries, task.columns, columns,
             queries, count, out);
  }
}

// The lines that two rows use.
Mixed Tile::mix(int row, int other) {
  room.chosen.clear();
  room.shares.clear();
  for (size_t k = 0; k < room.lines.size(); k++) {
    const float* shares = &rows.shares[k * kGroup];
    if (shares[row] == 0.0f && shares[other] == 0.0f) continue;
    room.chosen.push_back(room.lines[k]);
    room.shares.insert(room.shares.end(), {shares[row], shares[other]});
  }
  return Mixed{room.chosen.data(), room.shares.data(), int(room.chosen.size())};
}

void Tile::find_best(int count) {
  spread_lines(room.kept.data(), count);
  if (worth_bounds() && count >= kWorthSifting) count = sift_lines(count);
  std::fill_n(room.best.begin(), pairs() * kRows * kLanes, -kInfinity);
  std::fill_n(room.labels.begin(), pairs() * kRows * kLanes, task.classes[room.kept[0]]);
  for (int c = 0; c < count; c++) room.kept[c] = task.classes[room.kept[c]];
  for (int start = 0; start < count; start += kChunk) {
    for (int pair = 0; pair < pairs(); pair++) {
      const size_t at = size_t(pair) * kRows * kLanes;
      compare(mix_pair(pair), &room.kept[start], std::min(kChunk, count - start), &room.best[at], &room.labels[at]);
    }
    for (float*& line : room.lines) line += kChunk * kLanes;
  }
}

int Tile::sift_lines(int count) {
  for (int32_t& other : room.others)  // all of them were kept
    other = int32_t(std::lower_bound(room.kept.begin(), room.kept.begin() + count, other) - room.kept.begin());
  room.bars.resize(room.lines.size() * kLanes);
  bars_of(room.lines, room.others, columns.pixels, slack(), room.bars.data());
  return sift(room.lines.data(), int(room.lines.size()), room.bars.data(), count, room.kept.data());
}

// Sums of the exponentials of all queries, at rows that are not sure.
void Tile::add_totals() {
  std::fill_n(room.totals.begin(), pairs() * kRows * kLanes, 0.0f);
  for (int start = 0; start < task.queries; start += kChunk) {
    const int count = std::min(kChunk, task.queries - start);
    spread_lines(&room.every[start], count);
    for (int pair = 0; pair < pairs(); pair++) {
      const size_t at = size_t(pair) * kRows * kLanes;
      if (!pair_is_sure(pair)) add_exponentials(mix_pair(pair), count, task.scale, &room.best[at], &room.totals[at]);
    }
  }
}

// Makes the label of pixels below the threshold -1 where bounds say so, which mix as scores do; the rows are sure then.
void Tile::settle_by_bounds() {
  const size_t cells = columns.cells.size();
  room.bounds.clear();
  for (size_t i = 0; i < room.cells.size(); i++) {
    room.bounds.push_back(room.below[i]);
    room.bounds.push_back(task.sums[room.numbers[i]]);
  }
  room.spread.resize(std::max(room.spread.size(), rows.cells.size() * 2 * kLanes));
  room.lines.clear();
  for (size_t k = 0; k < rows.cells.size(); k++) {
    room.chosen.clear();
    for (size_t i = 0; i < cells; i++) room.chosen.push_back(&room.bounds[2 * (k * cells + i)]);
    room.lines.push_back(&room.spread[k * 2 * kLanes]);
    spread(room.chosen.data(), columns, room.every.data(), 2, room.lines.back());
  }
  for (int pair = 0; pair < pairs(); pair++) {
    const size_t at = size_t(pair) * kRows * kLanes;
    settle(mix_pair(pair), limit(), columns.pixels, &room.best[at], &room.labels[at], &room.sure[pair * kRows]);
  }
}

void Tile::settle_by_steps() {
  std::fill_n(room.totals.begin(), pairs() * kRows * kLanes, 0.0f);
  room.even.assign(rows.steps.size(), 1);
  for (int start = 0; start < task.queries; start += kChunk) {
    const int count = std::min(kChunk, task.queries - start);
    spread_lines(&room.every[start], count);
    for (size_t i = 0; i < rows.steps.size(); i++) {
      const auto [first, many] = rows.steps[i];
      const bool open = std::find(&room.sure[first], &room.sure[first] + many, 0) != &room.sure[first] + many;
      if (!open || many < kStride / 2 || !room.even[i]) continue;
      room.even[i] = add_steps(mix(first, first + many - 1), count, many, task.scale, &room.best[first * kLanes],
                               room.steps.data(), &room.totals[first * kLanes]);
      if (start + count == task.queries && room.even[i])
        settle_steps(limit(), many, columns.pixels, &room.best[first * kLanes], &room.totals[first * kLanes],
                     &room.labels[first * kLanes], &room.sure[first]);
    }
  }
}

// Makes the label of pixels below the threshold -1, at rows that are not sure.
void Tile::cut() {
  for (int pair = 0; pair < pairs(); pair++)
    for (int i = pair * kRows * kLanes; !pair_is_sure(pair) && i < (pair + 1) * kRows * kLanes; i++)
      if (1.0f / room.totals[i] < task.threshold) room.labels[i] = -1;
}

template <typename T>
EVERY_LEVEL void write_row(T* out, const int32_t* labels, int32_t background, int pixels) {
  for (int j = 0; j < pixels; j++) out[j] = T(labels[j] < 0 ? background : labels[j]);
}

void Tile::write() {
  for (int r = 0; r < rows.pixels; r++) {
    const size_t to = place_of(r), from = size_t(r) * kLanes;
    if (task.label_bytes == 1)
      write_row(static_cast<uint8_t*>(task.labels) + to, &room.labels[from], task.background, columns.pixels);
    else
      write_row(static_cast<int32_t*>(task.labels) + to, &room.labels[from], task.background, columns.pixels);
    if (task.value) std::memcpy(task.value + to, &room.best[from], columns.pixels * sizeof(float));
    if (task.total) std::memcpy(task.total + to, &room.totals[from], columns.pixels * sizeof(float));
  }
}

void Tile::fill(int32_t label) {
  for (int r = 0; r < rows.pixels; r++)
    if (task.label_bytes == 1)
      std::fill_n(static_cast<uint8_t*>(task.labels) + place_of(r), columns.pixels, uint8_t(label));
    else
      std::fill_n(static_cast<int32_t*>(task.labels) + place_of(r), columns.pixels, label);
}

void Tile::decode() {
  find_cells();
  // ``spread`` mixes bounds too; those of larger scores decide nothing.
  const bool decides = task.threshold > 0.0f;
  const bool bounded = decides && worth_bounds() && few_cells() && task.scale * task.largest < 1e4f;
  if (bounded && is_all_background()) return fill(task.background);
  const int count = choose();
  if (count == 1 && (!task.valued() || (bounded && is_all_certain(room.kept[0])))) 
    return fill(task.classes[room.kept[0]]);
  find_best(count);
  std::fill(room.sure.begin(), room.sure.end(), uint8_t(1));
  std::fill_n(room.sure.begin(), rows.pixels, uint8_t(0));
  if (bounded) settle_by_bounds();
  if (bounded && !all_sure()) settle_by_steps();
  if (task.total || (decides && !all_sure())) add_totals();
  if (decides) cut();
  write();
}

// Strips ``first`` to ``last`` of the picture, from top to bottom.
void decode_strips(const Task& task, int first, int last) {
  Room room(task);
  for (int strip = first; strip < last; strip++) {
    const int start = strip * kLanes;
    const Span columns = span_of(task.columns, start, std::min(kLanes, task.columns.pixels - start), kLanes);
    for (const Span& rows : *task.rows) Tile{task, rows, columns, room}.decode();
  }
}

}  // namespace
