// Reads the Protocol Buffers wire format: just enough to iterate over the fields of a message
// without its schema.
#ifndef KASCADE_ENGINE_TOKENIZER_WIRE_FORMAT_H_
#define KASCADE_ENGINE_TOKENIZER_WIRE_FORMAT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade::bpe {

struct WireField {
  enum class Type : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  uint32_t number = 0;
  Type type = Type::kVarint;
  uint64_t value = 0;        // set for all types except kBytes
  std::string_view bytes{};  // set for kBytes; a view of the message
};

class WireReader {
 public:
  // `path` names the message in errors: "pieces[3]"; it is empty for the whole file.
  WireReader(std::string_view message, std::string path);

  // Returns the next field, or nullopt at the end of the message. INVALID_ARGUMENT names the byte
  // offset in the message. Groups, which neither proto3 nor SentencePiece use, are refused like any
  // other unknown wire type.
  absl::StatusOr<std::optional<WireField>> next();

  // The error for a known field that has another wire type than expected.
  absl::Status wrong_type(const WireField& field, const char* name) const;

 private:
  absl::StatusOr<uint64_t> varint();
  absl::StatusOr<uint64_t> fixed(size_t size);
  absl::Status damaged(const std::string& what) const;

  std::string_view message_;
  size_t position_ = 0;
  std::string path_;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_WIRE_FORMAT_H_
