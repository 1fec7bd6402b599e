// What the options of a calibration say about its candidate schedules. All functions are pure.
#ifndef KASCADE_ENGINE_CALIBRATION_CANDIDATE_SCHEDULES_H_
#define KASCADE_ENGINE_CALIBRATION_CANDIDATE_SCHEDULES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/calibration/calibration.h"
#include "engine/calibration/windows.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// Whether the planner goes by measured layer costs.
bool uses_measured_costs(const CalibrationOptions& options);
// Whether the calibration searches for the number of anchors.
bool is_automatic(const CalibrationOptions& options);
// Whether the search may keep a layer dense because of what its selection costs. An anchor layer of
// the tile family attends to all keys, so it would not gain from being dense.
bool measures_selection_loss(const CalibrationOptions& options);

// The similarity that the planner needs.
SimilarityKind similarity_kind(const CalibrationOptions& options);

// The layers beside layer 0 that stay dense, by request or, if asked for, because their own budget
// recalls too little.
std::vector<int32_t> dense_layers(const CalibrationOptions& options, const Similarity& similarity);

// The one candidate of a calibration that does not search. If it has fewer anchors than were asked
// for, that is added to `note`.
std::vector<LayerSchedule> requested_schedule(const CalibrationOptions& options,
                                              const Similarity& similarity, std::string& note);

// Every layer but the dense ones selects for itself.
std::vector<LayerSchedule> every_layer_selecting(const CalibrationOptions& options,
                                                 const Similarity& similarity);

// What a schedule records of its calibration; the duration is not known yet.
CalibrationRecord calibration_record(const CalibrationOptions& options,
                                     const CalibrationWindows& windows,
                                     const WindowSettings& measuring);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_CANDIDATE_SCHEDULES_H_
