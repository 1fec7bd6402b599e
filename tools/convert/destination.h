// The folder that a conversion makes: written under a temporary name beside its final place and
// renamed when complete, so that DEST is whole or not there.
#ifndef KASCADE_TOOLS_CONVERT_DESTINATION_H_
#define KASCADE_TOOLS_CONVERT_DESTINATION_H_

#include <cstdint>
#include <filesystem>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade::convert {

class Destination {
 public:
  // Makes the temporary folder `.NAME.partial` beside `folder`. What a killed conversion left there
  // is removed; one that still runs is FAILED_PRECONDITION. `folder` may exist only with `force`,
  // and then must be empty or hold a config.json (ALREADY_EXISTS otherwise), so that a mistyped
  // path is never deleted. `needed_bytes`: RESOURCE_EXHAUSTED if the disk has less.
  static absl::StatusOr<std::unique_ptr<Destination>> create(const std::filesystem::path& folder,
                                                             bool force, int64_t needed_bytes);
  // Removes the temporary folder unless commit() succeeded.
  ~Destination();
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;

  const std::filesystem::path& partial() const { return partial_; }
  // Syncs and renames; what was at `folder` is replaced.
  absl::Status commit();

 private:
  Destination(std::filesystem::path folder, std::filesystem::path partial, int lock);

  std::filesystem::path folder_;
  std::filesystem::path partial_;
  int lock_;  // descriptor of the temporary folder, locked while we write
  bool committed_ = false;
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_DESTINATION_H_
