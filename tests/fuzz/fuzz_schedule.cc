// A schedule file. What parses is written and read back as the same.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/check.h"
#include "engine/schedule/schedule.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto schedule = kascade::parse_schedule(text);
  if (!schedule.ok()) return 0;
  const std::string written = kascade::to_json(*schedule);
  const auto again = kascade::parse_schedule(written);
  KASCADE_CHECK(again.ok());
  KASCADE_CHECK(kascade::to_json(*again) == written);
  return 0;
}
