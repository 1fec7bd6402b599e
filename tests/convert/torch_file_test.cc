// Tests checkpoints of torch.save: valid ones must be read; hostile or damaged ones must be refused
// with an error that names the fault.
#include "tools/convert/torch_file.h"

#include <cstring>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/torch_writer.h"
#include "tools/convert/pickle.h"
#include "tools/convert/zip_archive.h"

namespace kascade::convert {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::RawTensor;
using testing::torch_bytes;
using testing::TorchForm;
using testing::zip_bytes;
using testing::ZipForm;
using testing::ZipMember;
namespace pickled = testing::pickled;

template <typename T>
std::string error_of(const absl::StatusOr<T>& result) {
  return result.ok() ? "accepted" : result.status().ToString();
}
std::string torch_error(const std::string& content) { return error_of(read_torch(content, "f")); }
std::string zip_error(const std::string& content) { return error_of(read_zip(content, "f")); }
std::string pickle_error(const std::string& stream) { return error_of(read_pickle(stream, "f")); }

// A file of this pickle root and a storage data/0 of 24 bytes.
std::string file_of(const std::string& root) {
  return zip_bytes(
      {{"a/data.pkl", pickled::document(root)}, {"a/data/0", std::string(24, '\x01')}});
}
std::string tensor_error(const std::string& tensor) {
  return torch_error(file_of(pickled::map({{"t", tensor}})));
}

RawTensor numbered(const std::string& name, std::vector<int64_t> shape) {
  RawTensor tensor{name, "F32", std::move(shape), ""};
  int64_t elements = 1;
  for (const int64_t size : tensor.shape) elements *= size;
  for (int64_t i = 0; i < elements; ++i) {
    const auto value = static_cast<float>(i);
    tensor.bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return tensor;
}

std::string bytes_of(const TorchTensor& tensor) {
  const int64_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
  const int64_t cols = tensor.shape.back();
  const int64_t size = size_of(tensor.dtype.value_or(DType::kF32));
  std::string bytes(static_cast<size_t>(tensor.elements * size), '\0');
  auto* target = reinterpret_cast<std::byte*>(bytes.data());
  for (int64_t row = 0; row < rows; ++row) {
    tensor.copy_row(row, 0, cols, target + row * cols * size);
  }
  return bytes;
}

void expect_same(const std::string& content, const std::vector<RawTensor>& expected) {
  const auto tensors = read_torch(content, "f");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), expected.size());
  for (const RawTensor& tensor : expected) {
    const TorchTensor& found = tensors->at(tensor.name);
    EXPECT_EQ(found.shape, tensor.shape) << tensor.name;
    EXPECT_EQ(bytes_of(found), tensor.bytes) << tensor.name;
  }
}

const std::vector<RawTensor>& two_tensors() {
  static const std::vector<RawTensor> tensors = {numbered("matrix", {3, 5}),
                                                 {"half", "BF16", {2}, "\x80\x3f\x01\x40"}};
  return tensors;
}

TEST(TorchFile, ReadsEveryForm) {
  expect_same(torch_bytes(two_tensors()), two_tensors());
  expect_same(torch_bytes(two_tensors(), {.zip = {.wide = true}}), two_tensors());
  expect_same(torch_bytes(two_tensors(), {.zip = {.aligned = false}}), two_tensors());
  expect_same(torch_bytes(two_tensors(), {.zip = {.comment = "a comment"}}), two_tensors());
  expect_same(torch_bytes(two_tensors(), {.byteorder = "little"}), two_tensors());
  expect_same(torch_bytes(two_tensors(), {.transposed = true}), two_tensors());
  expect_same(torch_bytes(two_tensors(), {.parameters = true}), two_tensors());
  for (const char* wrapper : {"model", "state_dict", "module"}) {
    expect_same(torch_bytes(two_tensors(), {.wrapper = wrapper}), two_tensors());
  }
}

TEST(TorchFile, OpensMappedFiles) {
  testing::TempDir dir;
  testing::write_file(dir / "f.pth", torch_bytes(two_tensors()));
  const auto file = TorchFile::open(dir / "f.pth");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(bytes_of(file->tensors().at("matrix")), two_tensors()[0].bytes);
  EXPECT_EQ(TorchFile::open(dir / "none").status().code(), absl::StatusCode::kNotFound);
}

TEST(TorchFile, StateDictionaryOfAModule) {
  // An OrderedDict with pairs set one by one, memos, and the module's metadata as its state.
  const std::string tensor = pickled::tensor(pickled::storage("FloatStorage", "0", 6), 0, {6}, {1});
  const std::string root = pickled::global("collections", "OrderedDict") + "q\x01)Rq\x02" +
                           pickled::text("t") + tensor + "sh\x02" + "0";
  EXPECT_THAT(torch_error(file_of(root)), HasSubstr("opcode 0x30"));
  const std::string with_state = pickled::global("collections", "OrderedDict") + "q\x01)Rq\x02" +
                                 pickled::text("t") + tensor + "s" +
                                 pickled::map({{"_metadata", "h\x02"}}) + "b";
  EXPECT_EQ(torch_error(file_of(with_state)), "accepted");
}

TEST(TorchFile, TwoTensorsMayShareAStorage) {
  std::vector<RawTensor> tensors = {numbered("a", {2, 3}), numbered("b", {2, 3})};
  const std::string content = torch_bytes(tensors, {.shared = {{"b", "a"}}});
  const auto read = read_torch(content, "f");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->at("a").data, read->at("b").data);
}

TEST(TorchFile, ViewsOfAPartOfAStorage) {
  const std::string storage = pickled::storage("FloatStorage", "0", 6);
  const std::string content = zip_bytes(
      {{"a/data.pkl",
        pickled::document(pickled::map({{"column", pickled::tensor(storage, 1, {3}, {2})},
                                        {"corner", pickled::tensor(storage, 3, {2, 1}, {2, 1})}}))},
       {"a/data/0", numbered("", {6}).bytes}});
  const auto read = read_torch(content, "f");
  ASSERT_TRUE(read.ok()) << read.status();
  float column[3];
  std::memcpy(column, bytes_of(read->at("column")).data(), sizeof(column));
  EXPECT_THAT(column, ::testing::ElementsAre(1, 3, 5));
  float corner[2];
  std::memcpy(corner, bytes_of(read->at("corner")).data(), sizeof(corner));
  EXPECT_THAT(corner, ::testing::ElementsAre(3, 5));
}

TEST(TorchFile, OtherTypesAreListedWithoutOne) {
  const std::string content = torch_bytes(
      {{"steps", "I64", {1}, std::string(8, '\0')}, {"wide", "F64", {1}, std::string(8, '\0')}});
  const auto read = read_torch(content, "f");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->at("steps").type, "int64");
  EXPECT_EQ(read->at("wide").type, "float64");
  EXPECT_FALSE(read->at("wide").dtype);
}

TEST(TorchFile, TensorsOutsideTheirStorage) {
  const std::string storage = pickled::storage("FloatStorage", "0", 6);
  const int64_t huge = int64_t{1} << 62;
  for (const std::string& tensor :
       {pickled::tensor(storage, 1, {6}, {1}), pickled::tensor(storage, 6, {1}, {1}),
        pickled::tensor(storage, 0, {2, 3}, {4, 1}), pickled::tensor(storage, 0, {2, 3}, {3, 2}),
        pickled::tensor(storage, huge, {1}, {1}), pickled::tensor(storage, 0, {huge, huge}, {1, 1}),
        pickled::tensor(storage, 0, {2}, {huge * 1}), pickled::tensor(storage, 5, {3}, {huge}),
        pickled::tensor(storage, 0, {1000000, 1000000}, {0, 0})}) {
    EXPECT_THAT(tensor_error(tensor), HasSubstr("tensor \"t\": reaches beyond its storage of 6"));
  }
  EXPECT_EQ(tensor_error(pickled::tensor(storage, 0, {2, 3}, {3, 1})), "accepted");
  EXPECT_EQ(tensor_error(pickled::tensor(storage, 9, {4, 0}, {1, 1})), "accepted");
}

TEST(TorchFile, StoragesThatAreNotWhatTheySay) {
  const auto with = [](const std::string& storage) {
    return tensor_error(pickled::tensor(storage, 0, {1}, {1}));
  };
  EXPECT_THAT(with(pickled::storage("FloatStorage", "1", 6)), HasSubstr("no entry \"a/data/1\""));
  EXPECT_THAT(with(pickled::storage("FloatStorage", "../data/0", 6)), HasSubstr("no entry"));
  for (const int64_t elements : {5, 7}) {
    EXPECT_THAT(with(pickled::storage("FloatStorage", "0", elements)), HasSubstr("found 24 bytes"));
  }
  EXPECT_THAT(with(pickled::storage("DoubleStorage", "0", (int64_t{1} << 61) + 3)),
              HasSubstr("found 24 bytes"));  // times 8 is 24 in 64 bits
  EXPECT_THAT(with(pickled::storage("FloatStorage", "0", -1)), HasSubstr("another tuple"));
  EXPECT_THAT(with(pickled::storage("QInt8Storage", "0", 24)), HasSubstr("torch.QInt8Storage"));
}

TEST(TorchFile, ByteOrder) {
  EXPECT_THAT(torch_error(torch_bytes(two_tensors(), {.byteorder = "big"})),
              AllOf(HasSubstr("UNIMPLEMENTED"), HasSubstr("found \"big\"")));
  EXPECT_THAT(torch_error(torch_bytes(two_tensors(), {.byteorder = "middle"})),
              HasSubstr("expected \"little\", found \"middle\""));
}

TEST(TorchFile, OldFormatsComeWithAdvice) {
  const std::string legacy =
      std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
  EXPECT_THAT(torch_error(legacy), HasSubstr("before torch 1.6 is not read; open it with torch"));
  std::string tar(512, '\0');
  tar.replace(257, 5, "ustar");
  EXPECT_THAT(torch_error(tar), AllOf(HasSubstr("tar archive"), HasSubstr("save it again")));
}

TEST(TorchFile, WhatIsNoStateDictionary) {
  EXPECT_THAT(torch_error(file_of("]")), HasSubstr("expected a dictionary of tensors"));
  EXPECT_THAT(torch_error(file_of("}K\x01Ns")), HasSubstr("expected strings"));
  EXPECT_THAT(tensor_error("N"), HasSubstr("expected \"t\" to be a tensor"));
  EXPECT_THAT(torch_error(zip_bytes({{"data.pkl", "x"}})), HasSubstr("without FOLDER/data.pkl"));
  EXPECT_THAT(torch_error(zip_bytes({{"a/data.pkl", "x"}, {"b/data.pkl", "x"}})),
              HasSubstr("two entries"));
  const std::string tensor = pickled::tensor(pickled::storage("FloatStorage", "0", 6), 0, {6}, {1});
  EXPECT_THAT(torch_error(file_of(pickled::map({{"t", tensor}, {"t", tensor}}))),
              HasSubstr("\"t\" occurs twice"));
}

TEST(TorchFile, CutShortAnywhere) {
  for (const bool wide : {false, true}) {
    const std::string content = torch_bytes(two_tensors(), {.zip = {.wide = wide}});
    for (size_t bytes = 0; bytes < content.size(); ++bytes) {
      const std::string cut = content.substr(0, bytes);
      ASSERT_NE(torch_error(cut), "accepted") << bytes << " of " << content.size();
    }
  }
}

TEST(TorchFile, DamagedBytesNeverReachOutside) {
  std::mt19937 random(7);
  for (const bool wide : {false, true}) {
    const std::string content = torch_bytes(two_tensors(), {.zip = {.wide = wide}});
    for (int round = 0; round < 20000; ++round) {
      std::string damaged = content;
      for (int i = 0; i < 3; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
      const auto tensors = read_torch(damaged, "f");
      if (!tensors.ok()) continue;
      const char* end = damaged.data() + damaged.size();
      for (const auto& [name, tensor] : *tensors) {
        if (tensor.elements == 0) continue;
        int64_t last = 0;
        for (size_t d = 0; d < tensor.shape.size(); ++d) {
          last += (tensor.shape[d] - 1) * tensor.strides[d];
        }
        ASSERT_LT(last, end - reinterpret_cast<const char*>(tensor.data));
        ASSERT_GE(reinterpret_cast<const char*>(tensor.data), damaged.data());
      }
    }
  }
}

TEST(ZipArchive, NamesAndContents) {
  for (const bool wide : {false, true}) {
    const std::string archive = zip_bytes({{"x/one", "first"}, {"x/two", ""}}, {.wide = wide});
    const auto entries = read_zip(archive, "f");
    ASSERT_TRUE(entries.ok()) << entries.status();
    EXPECT_THAT(*entries, ::testing::ElementsAre(::testing::Pair("x/one", "first"),
                                                 ::testing::Pair("x/two", "")));
  }
}

TEST(ZipArchive, WhatIsNotStoredPlainly) {
  EXPECT_THAT(
      zip_error(zip_bytes({{"e", "x", 8}})),
      AllOf(HasSubstr("UNIMPLEMENTED"), HasSubstr("entry \"e\": compressed with method 8")));
  EXPECT_THAT(zip_error(zip_bytes({{"e", "x", 0, 1}})), HasSubstr("encrypted"));
  EXPECT_THAT(zip_error("no archive"), HasSubstr("not a ZIP archive, or cut short"));
  EXPECT_THAT(zip_error(""), HasSubstr("not a ZIP archive, or cut short"));
}

TEST(ZipArchive, Names) {
  EXPECT_THAT(zip_error(zip_bytes({{"e", "x"}, {"e", "y"}})), HasSubstr("entry \"e\": occurs twi"));
  for (const std::string& name :
       {std::string("/e"), std::string("../e"), std::string("a/../../e"), std::string("a/.."),
        std::string("a\\e"), std::string("a\0b", 3), std::string()}) {
    EXPECT_THAT(zip_error(zip_bytes({{name, "x"}})), HasSubstr("expected a relative path"));
  }
  EXPECT_EQ(zip_error(zip_bytes({{"a/..b/c", "x"}})), "accepted");
}

// `archive` with the bytes at `position` after the last `signature` replaced.
std::string patched(std::string archive, const char* signature, size_t position,
                    std::string_view bytes) {
  return archive.replace(archive.rfind(signature, archive.npos, 4) + position, bytes.size(), bytes);
}

TEST(ZipArchive, OffsetsAndSizesOutside) {
  const std::string plain = zip_bytes({{"e", "content"}}, {.aligned = false});
  const char* central = "PK\x01\x02";
  const char* end = "PK\x05\x06";
  const char* local = "PK\x03\x04";
  const std::string_view far("\xf0\xff\xff\xff", 4);
  EXPECT_THAT(zip_error(patched(plain, central, 42, far)), HasSubstr("no local header at byte"));
  EXPECT_THAT(zip_error(patched(plain, central, 42, {"\x01\0\0\0", 4})),
              HasSubstr("no local header at byte 1"));
  EXPECT_THAT(zip_error(patched(patched(plain, central, 24, far), central, 20, far)),
              HasSubstr("before the central directory"));
  EXPECT_THAT(zip_error(patched(plain, central, 20, {"\x06\0\0\0", 4})), HasSubstr("found 6"));
  EXPECT_THAT(zip_error(patched(plain, central, 28, "\xff\xff")), HasSubstr("damaged central"));
  EXPECT_THAT(zip_error(patched(plain, local, 28, "\xff\xff")),
              HasSubstr("before the central directory"));
  EXPECT_THAT(zip_error(patched(plain, local, 30, "f")), HasSubstr("disagrees"));
  EXPECT_THAT(zip_error(patched(plain, local, 8, "\x08")), HasSubstr("disagrees"));
  EXPECT_THAT(zip_error(patched(plain, local, 22, "\x06")), HasSubstr("disagrees"));
  EXPECT_THAT(zip_error(patched(plain, end, 16, far)), HasSubstr("should end before"));
  EXPECT_THAT(zip_error(patched(plain, end, 12, far)), HasSubstr("should end before"));
  EXPECT_THAT(zip_error(patched(plain, end, 8, "\xf0\xff\xf0\xff")),
              HasSubstr("expected at most 1 entries, found 65520"));
  EXPECT_THAT(zip_error(patched(plain, end, 8, {"\0\0\0\0", 4})), HasSubstr("should end at byte"));
  EXPECT_THAT(zip_error(patched(plain, end, 4, "\x01")), HasSubstr("archive of several files"));
  EXPECT_THAT(zip_error(patched(plain, central, 34, "\x01")), HasSubstr("lies in another file"));
}

TEST(ZipArchive, WideRecords) {
  const std::string wide = zip_bytes({{"e", "content"}}, {.wide = true, .aligned = false});
  const char* end = "PK\x06\x06";
  const char* locator = "PK\x06\x07";
  const std::string far(8, '\xff');
  EXPECT_THAT(zip_error(patched(wide, locator, 8, far)), HasSubstr("no 64-bit end record"));
  EXPECT_THAT(zip_error(patched(wide, locator, 16, "\x02")), HasSubstr("several files"));
  EXPECT_THAT(zip_error(patched(wide, end, 48, far)), HasSubstr("should end before"));
  EXPECT_THAT(zip_error(patched(wide, end, 40, far)), HasSubstr("should end before"));
  EXPECT_THAT(zip_error(patched(patched(wide, end, 24, far), end, 32, far)),
              HasSubstr("expected at most 1 entries"));
  EXPECT_THAT(zip_error(patched(wide, "PK\x05\x06", 16, {"\x01\0\0\0", 4})), HasSubstr("disagree"));
  // 64-bit sizes and offset of the entry, in its central extra field after 46 + 1 + 4 bytes.
  EXPECT_THAT(zip_error(patched(wide, "PK\x01\x02", 51, far)), HasSubstr("stored, so expected"));
  EXPECT_THAT(zip_error(patched(wide, "PK\x01\x02", 67, far)), HasSubstr("no local header"));
  EXPECT_THAT(zip_error(patched(wide, "PK\x01\x02", 47, {"\x02\0", 2})), HasSubstr("are missing"));
}

TEST(ZipArchive, OverlappingEntries) {
  // The content of "a" is a local header of "b" and its content.
  const std::string inner = zip_bytes({{"b", "payload"}}, {.aligned = false});
  const std::string header = inner.substr(0, inner.find("PK\x01\x02"));
  std::string archive = zip_bytes({{"a", header}, {"b", "payload"}}, {.aligned = false});
  EXPECT_EQ(zip_error(archive), "accepted");
  const uint32_t inside = 31;  // of the content of "a"
  archive = patched(archive, "PK\x01\x02", 42, {reinterpret_cast<const char*>(&inside), 4});
  EXPECT_THAT(zip_error(archive), HasSubstr("entry \"b\": overlaps another entry"));
}

TEST(Pickle, ForbiddenNamesAreNamed) {
  for (const auto& [module, object] :
       std::vector<std::pair<std::string, std::string>>{{"os", "system"},
                                                        {"posix", "system"},
                                                        {"builtins", "eval"},
                                                        {"torch", "load"},
                                                        {"torch._utils", "_rebuild_tensor_v3"},
                                                        {"torch.nn", "FloatStorage"}}) {
    const std::string root =
        pickled::call(pickled::global(module, object), pickled::tuple({pickled::text("id")}));
    EXPECT_THAT(pickle_error(pickled::document(root)),
                AllOf(HasSubstr("UNIMPLEMENTED"), HasSubstr("\"" + module + "." + object + "\"")));
  }
}

TEST(Pickle, EveryOtherOpcodeIsRefused) {
  const std::string known =
      std::string(".(NJKMGXUqrhj}])taesucQRb") + "\x88\x89\x8a\x8f\x85\x86\x87\x81";
  int refused = 0;
  for (int opcode = 0; opcode < 256; ++opcode) {
    const std::string error =
        pickle_error(std::string("\x80\x02") + static_cast<char>(opcode) + std::string(300, 'N'));
    const bool is_known = known.find(static_cast<char>(opcode)) != known.npos;
    EXPECT_EQ(error.find("is not allowed in a checkpoint") == error.npos, is_known) << opcode;
    refused += !is_known;
  }
  EXPECT_EQ(refused, 256 - 33);
}

TEST(Pickle, Protocols) {
  EXPECT_THAT(pickle_error(std::string("\x80\x04N.")), HasSubstr("expected pickle protocol 2"));
  EXPECT_THAT(pickle_error("N."), HasSubstr("expected pickle protocol 2"));
  EXPECT_THAT(pickle_error(""), HasSubstr("cut short"));
}

TEST(Pickle, Values) {
  const std::string stream = pickled::document(
      "(" + pickled::integer(-7) + pickled::integer(300) + pickled::integer(70000) +
      pickled::integer(int64_t{1} << 40) + std::string("\x8a\x01\xff", 3) +
      std::string("\x8a\x00", 2) + std::string("G\x3f\xf8\0\0\0\0\0\0", 9) + "U\x02hi" + "N\x88t");
  const auto pickle = read_pickle(stream, "f");
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  const auto& items = pickle->as<PickleTuple>(pickle->root)->items;
  ASSERT_EQ(items.size(), 10u);
  const int64_t expected[] = {-7, 300, 70000, int64_t{1} << 40, -1, 0};
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(*pickle->as<int64_t>(items[i]), expected[i]);
  EXPECT_EQ(*pickle->as<double>(items[6]), 1.5);
  EXPECT_EQ(*pickle->as<std::string_view>(items[7]), "hi");
  EXPECT_TRUE(pickle->as<PickleNull>(items[8]));
  EXPECT_TRUE(*pickle->as<bool>(items[9]));
}

TEST(Pickle, StackFaults) {
  const auto error = [](const std::string& root) { return pickle_error(pickled::document(root)); };
  EXPECT_THAT(error(""), HasSubstr("expected to end with one value"));
  EXPECT_THAT(error("NN"), HasSubstr("expected to end with one value"));
  EXPECT_THAT(error("(N"), HasSubstr("1 marks"));
  EXPECT_THAT(error("N.N"), HasSubstr("2 bytes left"));
  EXPECT_THAT(error("t"), HasSubstr("a mark is missing"));
  EXPECT_THAT(error("N\x86"), HasSubstr("a value is missing"));
  EXPECT_THAT(error("N(N\x86"), HasSubstr("a value is missing"));  // not from below the mark
  EXPECT_THAT(error("h\x05"), HasSubstr("memo 5 was never set"));
  EXPECT_THAT(error("NNa"), HasSubstr("expected a list, found None"));
  EXPECT_EQ(error("](N}e"), "accepted");
  EXPECT_THAT(error("}(Nu"), HasSubstr("a key without a value"));
  EXPECT_THAT(error("}NN"), HasSubstr("expected to end"));
  EXPECT_THAT(error("NQ"), HasSubstr("a tuple of 5 for a storage, found None"));
  EXPECT_THAT(error(")Nb"), HasSubstr("expected a dictionary, found a tuple"));
  EXPECT_THAT(error("N)R"), HasSubstr("the name of a function, found None"));
  EXPECT_THAT(error(pickled::global("collections", "OrderedDict") + "NR"),
              HasSubstr("a tuple of arguments, found None"));
  EXPECT_THAT(error(std::string("\x8a\x09", 2) + std::string(9, '\x01')), HasSubstr("64 bits"));
}

TEST(Pickle, TensorFaults) {
  const std::string rebuild = pickled::global("torch._utils", "_rebuild_tensor_v2");
  const std::string storage = pickled::storage("FloatStorage", "0", 6);
  const auto error = [&](const std::vector<std::string>& arguments) {
    return pickle_error(pickled::document(pickled::call(rebuild, pickled::tuple(arguments))));
  };
  const std::string one = pickled::sizes({1});
  const std::string zero = pickled::integer(0);
  EXPECT_EQ(error({storage, zero, one, one, "\x89", "}"}), "accepted");
  EXPECT_EQ(error({storage, zero, one, one, "\x89", "}", "N"}), "accepted");
  EXPECT_THAT(error({storage, zero, one, one}), HasSubstr("6 or 7 arguments, found 4"));
  EXPECT_THAT(error({"N", zero, one, one, "\x89", "}"}), HasSubstr("a storage, found None"));
  EXPECT_THAT(error({storage, pickled::integer(-1), one, one, "\x89", "}"}), HasSubstr("offset"));
  EXPECT_THAT(error({storage, zero, pickled::sizes({-1}), one, "\x89", "}"}), HasSubstr("negati"));
  EXPECT_THAT(error({storage, zero, one, pickled::sizes({-1}), "\x89", "}"}), HasSubstr("negati"));
  EXPECT_THAT(error({storage, zero, one, pickled::sizes({1, 1}), "\x89", "}"}),
              HasSubstr("expected 1 strides of a tensor, found 2"));
  EXPECT_THAT(error({storage, zero, pickled::sizes(std::vector<int64_t>(9, 1)), one, "\x89", "}"}),
              HasSubstr("at most 8 dimensions"));
  EXPECT_THAT(error({storage, zero, one, one, "\x89", "}", pickled::map({{"neg", "\x88"}})}),
              HasSubstr("metadata"));
}

TEST(Pickle, BombsStaySmall) {
  // Each list holds the one before twice: 2^60 values if they were copies.
  std::string doubling = "]q" + std::string(1, '\0');
  for (char level = 0; level < 60; ++level) {
    doubling += std::string("](h") + level + "h" + level + "eq" + static_cast<char>(level + 1);
  }
  const std::string root = "(" + doubling + "t";
  const auto pickle = read_pickle(pickled::document(root), "f");
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  EXPECT_LT(pickle->values.size(), 100u);
  EXPECT_THAT(torch_error(file_of(root)), HasSubstr("expected a dictionary"));

  EXPECT_EQ(pickle_error(pickled::document("]q\x01h\x01"
                                           "a")),
            "accepted");  // holds itself
  EXPECT_THAT(pickle_error(pickled::document(std::string(300000, ']') + std::string(299999, 'a'))),
              HasSubstr("more than 262144 values"));
  EXPECT_THAT(pickle_error(pickled::document(std::string(2000, '('))), HasSubstr("1000 marks"));
  EXPECT_THAT(pickle_error(std::string(17 << 20, 'N')), HasSubstr("at most 16777216 bytes"));
  // A string that says it is 4 GiB long.
  EXPECT_THAT(pickle_error(pickled::document("X\xff\xff\xff\xffx")), HasSubstr("cut short"));
}

}  // namespace
}  // namespace kascade::convert
