// Reads the fields of SentencePiece's ModelProto that affect encoding and decoding with a BPE
// model; the other fields concern training.
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/vocabulary.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "engine/tokenizer/wire_format.h"

namespace kascade {
namespace {

using bpe::WireField;
using bpe::WireReader;

constexpr const char* kModelTypes[] = {"none", "unigram", "bpe", "word", "char"};

// Calls `take(field)` for each field of `message` until it returns an error.
template <typename Take>
absl::Status read_fields(WireReader& reader, const Take& take) {
  while (true) {
    const absl::StatusOr<std::optional<WireField>> next = reader.next();
    if (!next.ok()) return next.status();
    const std::optional<WireField>& field = *next;
    if (!field) return absl::OkStatus();
    const absl::Status status = take(*field);
    if (!status.ok()) return status;
  }
}

// Stores one field in `target`; a field of another wire type is an error.
absl::Status store(const WireReader& reader, const WireField& field, const char* name,
                   std::string& target) {
  if (field.type != WireField::Type::kBytes) return reader.wrong_type(field, name);
  target = field.bytes;
  return absl::OkStatus();
}

absl::Status store(const WireReader& reader, const WireField& field, const char* name,
                   uint64_t& target) {
  if (field.type != WireField::Type::kVarint) return reader.wrong_type(field, name);
  target = field.value;
  return absl::OkStatus();
}

absl::Status store(const WireReader& reader, const WireField& field, const char* name,
                   float& target) {
  if (field.type != WireField::Type::kFixed32) return reader.wrong_type(field, name);
  target = std::bit_cast<float>(static_cast<uint32_t>(field.value));
  return absl::OkStatus();
}

absl::Status store(const WireReader& reader, const WireField& field, const char* name,
                   bool& target) {
  uint64_t value = 0;
  const absl::Status status = store(reader, field, name, value);
  target = value != 0;
  return status;
}

absl::Status not_done(const std::string& field, const std::string& found,
                      const std::string& supported) {
  return absl::UnimplementedError(
      absl::StrCat(field, ": found ", found, ", supported: ", supported));
}

class ModelReader {
 public:
  absl::StatusOr<SentencePieceVocabulary> read(std::string_view bytes) {
    WireReader reader(bytes, "");
    absl::Status status = read_fields(reader, [&](const WireField& field) {
      const char* name = name_of(field.number);
      if (!name) return absl::OkStatus();
      if (field.type != WireField::Type::kBytes) return reader.wrong_type(field, name);
      switch (field.number) {
        case 1:
          return add_piece(field.bytes);
        case 2:
          return read_trainer(field.bytes);
        default:
          return read_normalizer(field.bytes, name, field.number == 3);
      }
    });
    if (status.ok()) status = check();
    if (!status.ok()) return status;
    return std::move(result_);
  }

 private:
  static const char* name_of(uint32_t number) {
    switch (number) {
      case 1:
        return "pieces";
      case 2:
        return "trainer_spec";
      case 3:
        return "normalizer_spec";
      case 5:
        return "denormalizer_spec";
      default:
        return nullptr;
    }
  }

  absl::Status add_piece(std::string_view bytes) {
    const std::string path = absl::StrCat("pieces[", result_.pieces.size(), "]");
    if (result_.pieces.size() == bpe::Vocabulary::kMaxIds) {
      return absl::InvalidArgumentError(
          absl::StrCat("pieces: expected at most ", bpe::Vocabulary::kMaxIds));
    }
    SentencePieceVocabulary::Piece piece;
    auto type = static_cast<uint64_t>(PieceType::kNormal);
    WireReader reader(bytes, path);
    const absl::Status status = read_fields(reader, [&](const WireField& field) {
      if (field.number == 1) return store(reader, field, "piece", piece.text);
      if (field.number == 2) return store(reader, field, "score", piece.score);
      if (field.number == 3) return store(reader, field, "type", type);
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    if (type < 1 || type > 6) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ".type: found ", type, ", expected 1 to 6"));
    }
    piece.type = static_cast<PieceType>(type);
    result_.pieces.push_back(std::move(piece));
    return absl::OkStatus();
  }

  absl::Status read_trainer(std::string_view bytes) {
    WireReader reader(bytes, "trainer_spec");
    return read_fields(reader, [&](const WireField& field) {
      switch (field.number) {
        case 3:
          return store(reader, field, "model_type", model_type_);
        case 24:
          return store(reader, field, "treat_whitespace_as_suffix", whitespace_as_suffix_);
        case 46:
          return store(reader, field, "bos_piece", bos_piece_);
        default:
          return absl::OkStatus();
      }
    });
  }

  // The denormalizer is applied to decoded text and has the same fields.
  absl::Status read_normalizer(std::string_view bytes, const std::string& path, bool encodes) {
    std::string name;
    std::string charsmap;
    bool unused = false;
    WireReader reader(bytes, path);
    const absl::Status status = read_fields(reader, [&](const WireField& field) {
      switch (field.number) {
        case 1:
          return store(reader, field, "name", name);
        case 2:
          return store(reader, field, "precompiled_charsmap", charsmap);
        case 3:
          return store(reader, field, "add_dummy_prefix",
                       encodes ? result_.add_dummy_prefix : unused);
        case 4:
          return store(reader, field, "remove_extra_whitespaces",
                       encodes ? result_.remove_extra_whitespaces : unused);
        case 5:
          return store(reader, field, "escape_whitespaces",
                       encodes ? result_.escape_whitespaces : unused);
        default:
          return absl::OkStatus();
      }
    });
    if (!status.ok()) return status;
    // Without a character map, normalization changes no characters, whatever its name.
    if (charsmap.empty()) return absl::OkStatus();
    return not_done(path + ".precompiled_charsmap",
                    absl::StrCat(charsmap.size(), " bytes (", name, ")"), "none (identity)");
  }

  absl::Status check() {
    if (result_.pieces.empty()) return absl::InvalidArgumentError("pieces: found none");
    if (model_type_ != 2) {
      const bool known = model_type_ < std::size(kModelTypes);
      return not_done("trainer_spec.model_type",
                      known ? std::string(kModelTypes[model_type_]) : absl::StrCat(model_type_),
                      "bpe");
    }
    if (whitespace_as_suffix_) {
      return not_done("trainer_spec.treat_whitespace_as_suffix", "true", "false");
    }
    for (size_t id = 0; id < result_.pieces.size(); ++id) {
      const SentencePieceVocabulary::Piece& piece = result_.pieces[id];
      if (piece.type == PieceType::kControl && piece.text == bos_piece_) {
        result_.bos = static_cast<int32_t>(id);
        break;
      }
    }
    return absl::OkStatus();
  }

  SentencePieceVocabulary result_{.remove_extra_whitespaces = true};
  uint64_t model_type_ = 1;  // the default of the format
  bool whitespace_as_suffix_ = false;
  std::string bos_piece_ = "<s>";
};

}  // namespace

absl::StatusOr<SentencePieceVocabulary> parse_sentencepiece(std::string_view bytes) {
  return ModelReader().read(bytes);
}

}  // namespace kascade
