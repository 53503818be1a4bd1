// Counts of two label maps, run by run.

#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "levels.h"

namespace {

constexpr int kStretch = 1024;         // pixels whose borders are looked for at a time
constexpr int kNoise = 16 * kStretch;  // pixels that are taken for noise where a stretch is

// What is counted: (3, classes), tp, gt and pred.
struct Tally {
  int64_t classes, ignored;
  int64_t* counts;

  // Adds equal pixels without a branch on their values; false where one is not allowed: a prediction outside of the
  // classes, or a label that is neither a class nor ``ignored``.
  INLINE bool add(int64_t predicted, int64_t labelled, int64_t pixels) const {
    const bool counted = labelled != ignored;
    if ((uint64_t(predicted) >= uint64_t(classes)) | (counted & (uint64_t(labelled) >= uint64_t(classes)))) return false;
    const int64_t added = counted ? pixels : 0;
    counts[predicted] += labelled == predicted ? added : 0;
    counts[classes + (counted ? labelled : 0)] += added;
    counts[2 * classes + predicted] += added;
    return true;
  }
};

// 1 for every pixel that differs from the one before it in either map.
template <typename P, typename L>
EVERY_LEVEL void find_borders(const P* prediction, const L* label, int pixels, uint8_t* __restrict borders) {
  for (int i = 0; i < pixels; i++)
    borders[i] = uint8_t(prediction[i] != prediction[i - 1]) | uint8_t(label[i] != label[i - 1]);
}

// Groups of 8 pixels with a border: where they begin.
int find_groups(const uint8_t* borders, int pixels, int32_t* groups) {
  int count = 0;
  for (int i = 0; i < pixels; i += 8) {
    groups[count] = i;
    count += load<uint64_t>(borders + i) != 0;
  }
  return count;
}

// Pixels without runs to speak of: a table of all pairs of bytes takes one addition per pixel.
struct Pairs {
  std::vector<uint32_t> table;

  void add(const uint8_t* prediction, const uint8_t* label, int64_t pixels) {
    if (table.empty()) table.resize(1 << 16);
    for (int64_t i = 0; i < pixels; i++) table[size_t(label[i]) << 8 | prediction[i]]++;
  }

  bool move_to(const Tally& tally) const {
    for (size_t i = 0; i < table.size(); i++)
      if (table[i] && !tally.add(i & 255, i >> 8, table[i])) return false;
    return true;
  }
};

// At most 2^31 pixels, at least one.
template <typename P, typename L>
bool count_runs(const P* prediction, const L* label, int64_t pixels, const Tally& tally) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of a group is its lowest");
  uint8_t borders[kStretch + 8];
  int32_t groups[kStretch / 8 + 1];
  int64_t start = 0;  // of the run that has not ended
  Pairs pairs;
  for (int64_t at = 1, some; at < pixels; at += some) {
    some = std::min<int64_t>(kStretch, pixels - at);
    find_borders(prediction + at, label + at, int(some), borders);
    std::memset(borders + some, 0, 8);
    const int count = find_groups(borders, int(some), groups);
    if constexpr (sizeof(P) == 1 && sizeof(L) == 1)
      if (16 * count > some && 3 * std::accumulate(borders, borders + some, 0) > some) {
        if (!tally.add(prediction[start], label[start], at - start)) return false;
        some = std::min<int64_t>(kNoise, pixels - at);
        pairs.add(prediction + at, label + at, some - 1);
        start = at + some - 1;
        continue;
      }
    for (int g = 0; g < count; g++)
      for (uint64_t eight = load<uint64_t>(borders + groups[g]); eight; eight &= eight - 1) {
        const int64_t border = at + groups[g] + __builtin_ctzll(eight) / 8;
        if (!tally.add(prediction[start], label[start], border - start)) return false;
        start = border;
      }
  }
  return tally.add(prediction[start], label[start], pixels - start) && pairs.move_to(tally);
}

template <typename P>
bool count_labels(const P* prediction, const void* label, int bytes, int64_t pixels, const Tally& tally) {
  switch (bytes) {
    case 1: return count_runs(prediction, static_cast<const uint8_t*>(label), pixels, tally);
    case 2: return count_runs(prediction, static_cast<const int16_t*>(label), pixels, tally);
    case 4: return count_runs(prediction, static_cast<const int32_t*>(label), pixels, tally);
    default: return count_runs(prediction, static_cast<const int64_t*>(label), pixels, tally);
  }
}

bool count_maps(const void* prediction, int prediction_bytes, const void* label, int label_bytes, int64_t pixels,
                const Tally& tally) {
  switch (prediction_bytes) {
    case 1: return count_labels(static_cast<const uint8_t*>(prediction), label, label_bytes, pixels, tally);
    case 2: return count_labels(static_cast<const int16_t*>(prediction), label, label_bytes, pixels, tally);
    case 4: return count_labels(static_cast<const int32_t*>(prediction), label, label_bytes, pixels, tally);
    default: return count_labels(static_cast<const int64_t*>(prediction), label, label_bytes, pixels, tally);
  }
}

}  // namespace
