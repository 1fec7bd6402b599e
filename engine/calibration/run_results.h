// What the runs of a calibration gave, by run: whoever keeps it can continue a calibration that was
// interrupted without running anything twice. Everything between the runs is quick and depends on
// their results alone, so a continued calibration makes the schedule that it would have made
// undisturbed.
#ifndef KASCADE_ENGINE_CALIBRATION_RUN_RESULTS_H_
#define KASCADE_ENGINE_CALIBRATION_RUN_RESULTS_H_

#include <string>

namespace kascade {

class RunResults {
 public:
  virtual ~RunResults() = default;
  // What was kept under this key; null if nothing was. Called on the thread of calibrate(), like
  // keep().
  virtual const std::string* find(const std::string& key) const = 0;
  // Keeps a result. The key names the run: a digest of what runs, and the number of the window.
  virtual void keep(const std::string& key, std::string result) = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_RUN_RESULTS_H_
