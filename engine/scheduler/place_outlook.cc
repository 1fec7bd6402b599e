#include "engine/scheduler/place_outlook.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace kascade {
namespace {

Departure departure_of(const Sequence& sequence, int32_t max_batch_tokens, double length_share) {
  Departure departure{.places = sequence.spec.branches};
  for (const BlockTable& table : sequence.tables) {
    departure.blocks += static_cast<int32_t>(table.blocks().size());
  }
  const double rows = 1.0 * sequence.remaining() * sequence.spec.branches;
  departure.steps = std::ceil(rows / max_batch_tokens);
  if (sequence.spec.generates) {
    const auto permitted =
        static_cast<double>(sequence.spec.max_tokens - std::ssize(sequence.tokens) - 1);
    departure.steps += std::ceil(length_share * permitted);
  }
  return departure;
}

}  // namespace

double PlaceOutlook::steps_until_free(double places, double blocks) const {
  double places_then = free_places;
  double blocks_then = free_blocks;
  if (places_then >= places && blocks_then >= blocks) return 0;
  for (const Departure& departure : departures) {
    places_then += departure.places;
    blocks_then += departure.blocks;
    if (places_then >= places && blocks_then >= blocks) return departure.steps;
  }
  if (departures.empty()) return 0;
  const double rounds = std::max(places_then > 0 ? places / places_then : 1,
                                 blocks_then > 0 ? blocks / blocks_then : 1);
  return departures.back().steps * std::max(1.0, rounds);
}

PlaceOutlook place_outlook(const Scheduler& scheduler, const SchedulerLimits& limits,
                           const BlockAllocator& blocks, double length_share) {
  PlaceOutlook outlook{.free_places = limits.max_sequences, .free_blocks = blocks.total_blocks()};
  for (const Sequence* sequence : scheduler.in_order()) {
    if (sequence->rank() != Priority::kInteractive || !sequence->has_started) continue;
    const int32_t branches = sequence->spec.branches;
    ++outlook.started;
    outlook.free_places -= branches;
    if (!sequence->decoding()) {
      outlook.rows_to_feed += int64_t{sequence->remaining()} * branches;
      ++outlook.prompts_to_feed;
    }
    if (!sequence->running()) {  // preempted
      outlook.free_blocks -= branches * blocks.blocks_for(std::max(1, sequence->feed_end()));
      continue;
    }
    outlook.departures.push_back(departure_of(*sequence, limits.max_batch_tokens, length_share));
    outlook.free_blocks -= outlook.departures.back().blocks;
  }
  std::ranges::sort(outlook.departures, {}, &Departure::steps);
  return outlook;
}

}  // namespace kascade
