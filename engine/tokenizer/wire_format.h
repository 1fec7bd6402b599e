// Protocol Buffers as bytes: just enough to walk the fields of a message that somebody else wrote.
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
  uint64_t value = 0;        // of all types but kBytes
  std::string_view bytes{};  // of kBytes; part of the message
};

class WireReader {
 public:
  // `path` names the message in errors: "pieces[3]"; empty for the whole file.
  WireReader(std::string_view message, std::string path);

  // The next field, nothing at the end. INVALID_ARGUMENT names the byte in the message; groups,
  // which proto3 and SentencePiece do not use, are refused like any other unknown type.
  absl::StatusOr<std::optional<WireField>> next();

  // What is wrong with a known field of another type.
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
