// When interactive sequences will find a place and blocks, as far as the permitted lengths of those
// that run tell. It has no clock: what lies ahead is counted in steps and in rows.
#ifndef KASCADE_ENGINE_SCHEDULER_PLACE_OUTLOOK_H_
#define KASCADE_ENGINE_SCHEDULER_PLACE_OUTLOOK_H_

#include <cstdint>
#include <vector>

#include "engine/scheduler/scheduler.h"

namespace kascade {

// The end of a sequence.
struct Departure {
  double steps = 0;    // from now
  int32_t places = 0;  // that it leaves
  int32_t blocks = 0;
};

// Batch and background sequences count as gone, since they lose places and blocks to interactive
// ones; a promoted batch sequence counts as interactive.
struct PlaceOutlook {
  int32_t free_places = 0;              // < 0: preempted sequences need more than there are
  int32_t free_blocks = 0;              // likewise
  int32_t started = 0;                  // interactive sequences that have started
  int64_t rows_to_feed = 0;             // of their prompts
  int32_t prompts_to_feed = 0;          // that have such rows
  std::vector<Departure> departures{};  // of those that run, the next one first

  // The number of steps after which so many places and blocks are free. Where that takes more ends
  // than those of the present sequences, others are assumed to follow at the same pace.
  double steps_until_free(double places, double blocks) const;
};

// `length_share` is the share of the permitted tokens that sequences are expected to generate, in
// [0, 1].
PlaceOutlook place_outlook(const Scheduler& scheduler, const SchedulerLimits& limits,
                           const BlockAllocator& blocks, double length_share);

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_PLACE_OUTLOOK_H_
