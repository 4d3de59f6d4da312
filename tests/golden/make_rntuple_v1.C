// Writes tests/golden/rntuple_v1.root: all that ROOT can put into an RNTuple and uproot cannot, in few small pages.
//
// 60 entries in clusters of 20 and groups of 40; some fields are added after the first cluster. Made by ROOT 6.40 with
//   root -b -q 'make_rntuple_v1.C+("rntuple_v1.root")'
// The random numbers are seeded; other versions of ROOT may choose other encodings.

#include <ROOT/RField.hxx>
#include <ROOT/RNTupleModel.hxx>
#include <ROOT/RNTupleWriteOptions.hxx>
#include <ROOT/RNTupleWriter.hxx>
#include <TRandom3.h>

#include <array>
#include <atomic>
#include <bitset>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

using namespace ROOT;

TRandom3 &generator()
{
   static TRandom3 one(7);
   return one;
}

float real() { return generator().Gaus(); }
int below(int limit) { return generator().Integer(limit); }

template <typename List>
void fill(List &list, int limit)
{
   list.clear();
   for (int left = below(limit); left > 0; --left)
      list.push_back(real() * 100);
}

template <typename Change>
void add_float(RNTupleModel &model, const char *name, Change change)
{
   auto field = std::make_unique<RField<float>>(name);
   change(*field);
   model.AddField(std::move(field));
}

void make_rntuple_v1(const char *path, int compression = 505, int entries = 60)
{
   auto model = RNTupleModel::Create();
   auto number = model->MakeField<double>("number");
   auto flag = model->MakeField<bool>("flag");
   auto i8 = model->MakeField<std::int8_t>("i8");
   auto u16 = model->MakeField<std::uint16_t>("u16");
   auto i64 = model->MakeField<std::int64_t>("i64");
   auto u64 = model->MakeField<std::uint64_t>("u64");
   auto text = model->MakeField<std::string>("text");
   auto floats = model->MakeField<std::vector<float>>("floats");
   auto flags = model->MakeField<std::vector<bool>>("flags");
   auto lists = model->MakeField<std::vector<std::vector<std::int32_t>>>("lists");
   auto deep = model->MakeField<std::vector<std::vector<std::vector<float>>>>("deep");
   auto triple = model->MakeField<std::array<float, 3>>("triple");
   auto matrix = model->MakeField<std::array<std::array<std::int16_t, 2>, 3>>("matrix");
   auto pairs = model->MakeField<std::vector<std::array<float, 2>>>("pairs");
   auto two_lists = model->MakeField<std::array<std::vector<float>, 2>>("two_lists");
   auto bits = model->MakeField<std::bitset<5>>("bits");
   auto maybe = model->MakeField<std::optional<float>>("maybe");
   auto maybe_whole = model->MakeField<std::optional<std::int32_t>>("maybe_whole");
   auto maybe_list = model->MakeField<std::optional<std::vector<float>>>("maybe_list");
   auto list_of_maybe = model->MakeField<std::vector<std::optional<float>>>("list_of_maybe");
   auto owned = model->MakeField<std::unique_ptr<double>>("owned");
   auto record = model->MakeField<std::pair<float, std::int32_t>>("record");
   auto records = model->MakeField<std::vector<std::pair<float, std::vector<float>>>>("records");
   auto either = model->MakeField<std::variant<std::int32_t, float>>("either");
   auto counter = model->MakeField<std::atomic<std::int32_t>>("counter");
   add_float(*model, "half", [](auto &field) { field.SetHalfPrecision(); });
   add_float(*model, "trunc17", [](auto &field) { field.SetTruncated(17); });
   add_float(*model, "trunc10", [](auto &field) { field.SetTruncated(10); });
   add_float(*model, "quant13", [](auto &field) { field.SetQuantized(13, {-5.f, 5.f}); });
   add_float(*model, "quant32", [](auto &field) { field.SetQuantized(32, {-5.f, 5.f}); });
   auto single = std::make_unique<RField<double>>("double32");
   single->SetColumnRepresentatives({{ENTupleColumnType::kSplitReal32}});
   model->AddField(std::move(single));
   auto short_index = std::make_unique<RField<std::vector<float>>>("index32");
   short_index->SetColumnRepresentatives({{ENTupleColumnType::kSplitIndex32}});
   model->AddField(std::move(short_index));

   RNTupleWriteOptions options;
   options.SetCompression(compression);
   options.SetInitialUnzippedPageSize(32);
   options.SetMaxUnzippedPageSize(128);
   auto writer = RNTupleWriter::Recreate(std::move(model), "Events", path, options);
   const auto &entry = writer->GetModel().GetDefaultEntry();
   std::shared_ptr<float> late;
   std::shared_ptr<std::vector<float>> late_list;
   std::shared_ptr<std::array<float, 2>> late_pair;

   for (int now = 0; now < entries; ++now) {
      if (now == entries / 3 + 5) {
         auto updater = writer->CreateModelUpdater();
         updater->BeginUpdate();
         late = updater->MakeField<float>("late");
         late_list = updater->MakeField<std::vector<float>>("late_list");
         late_pair = updater->MakeField<std::array<float, 2>>("late_pair");
         updater->CommitUpdate();
      }
      *number = real();
      *flag = below(2);
      *i8 = real() * 40;
      *u16 = below(65536);
      *i64 = real() * 1e18;
      *u64 = static_cast<ULong64_t>(generator().Rndm() * 1.8e19);
      *text = std::string(below(5), 'x');
      fill(*floats, 5);
      flags->clear();
      for (int left = below(6); left > 0; --left)
         flags->push_back(below(2));
      lists->clear();
      for (int left = below(4); left > 0; --left) {
         lists->emplace_back();
         for (int more = below(3); more > 0; --more)
            lists->back().push_back(below(1000));
      }
      deep->assign(below(3), {{1.f}, {}});
      for (auto &one : *triple)
         one = real();
      for (auto &row : *matrix)
         for (auto &one : row)
            one = below(99);
      pairs->clear();
      for (int left = below(4); left > 0; --left)
         pairs->push_back({real(), real()});
      for (auto &one : *two_lists)
         fill(one, 3);
      *bits = below(32);
      *maybe = below(2) ? std::optional<float>(real()) : std::nullopt;
      *maybe_whole = below(2) ? std::optional<std::int32_t>(below(1000)) : std::nullopt;
      maybe_list->reset();
      if (below(2))
         fill(maybe_list->emplace(), 3);
      list_of_maybe->clear();
      for (int left = below(4); left > 0; --left)
         list_of_maybe->push_back(below(2) ? std::optional<float>(real()) : std::nullopt);
      owned->reset();
      if (below(2))
         *owned = std::make_unique<double>(real());
      record->first = real();
      record->second = below(9);
      records->clear();
      for (int left = below(3); left > 0; --left) {
         records->emplace_back();
         records->back().first = real();
         fill(records->back().second, 3);
      }
      if (below(2))
         *either = real();
      else
         *either = below(9);
      counter->store(below(99));
      for (auto name : {"half", "trunc17", "trunc10", "quant13", "quant32"})
         *entry.GetPtr<float>(name) = std::max(-5.f, std::min(5.f, real()));
      *entry.GetPtr<double>("double32") = real();
      fill(*entry.GetPtr<std::vector<float>>("index32"), 4);
      if (late) {
         *late = real();
         fill(*late_list, 4);
         for (auto &one : *late_pair)
            one = real();
      }
      writer->Fill();
      if (now % 20 == 19)
         writer->CommitCluster(now % 40 == 39);
   }
}
