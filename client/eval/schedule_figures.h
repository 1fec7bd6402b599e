// Draws what a calibration measured and what it chose.
#ifndef KASCADE_CLIENT_EVAL_SCHEDULE_FIGURES_H_
#define KASCADE_CLIENT_EVAL_SCHEDULE_FIGURES_H_

#include <string>

#include "kascade/v1/calibration_service.pb.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::client {

// A heat map of CalibrationResult.similarity, as SVG.
std::string similarity_figure(const v1::CalibrationResult& schedule);

// The layers, their KV heads and whose keys they use, as SVG.
std::string schedule_figure(const v1::Schedule& schedule);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_SCHEDULE_FIGURES_H_
