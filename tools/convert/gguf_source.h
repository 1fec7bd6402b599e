// The implementation of open_gguf (tools/convert/source.h) for a file in memory.
#ifndef KASCADE_TOOLS_CONVERT_GGUF_SOURCE_H_
#define KASCADE_TOOLS_CONVERT_GGUF_SOURCE_H_

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "tools/convert/source.h"

namespace kascade::convert {

// Opens `content`, which is the whole content of `file` and must outlive the result.
absl::StatusOr<std::unique_ptr<Source>> gguf_source(std::span<const std::byte> content,
                                                    const std::filesystem::path& file,
                                                    const SourceOptions& options);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_SOURCE_H_
